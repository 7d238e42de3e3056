"""The one Transformer encoder that every method trains.

Its parameters correspond one to one to fairseq's RoBERTa (``checkpoints/key_table.py``).
Shapes: B batch, T length, D width, H heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairseq_masking.errors import UserError
from fairseq_masking.modules.attention import rotation_of
from fairseq_masking.modules.config import EncoderConfig
from fairseq_masking.modules.layer import TransformerLayer
from fairseq_masking.modules.reach import Reach, Reaches, places_within, reach_of, visible_keys, window_mask
from fairseq_masking.modules.relative_position import RelativePositionBias
from fairseq_masking.ops import dropout

__all__ = [
    "EmbeddedStack", "Encoded", "EncoderConfig", "LayerStack", "TransformerEncoder", "TransformerLayer",
    "check_length", "init_bert_weights",
]  # fmt: skip


class LayerStack(nn.Module):
    """What networks of Transformer layers share: positions, a norm of what enters, layers.

    ``layer_norm`` comes after the last layer of pre-LN stacks; others have none. Only learned positions have
    parameters, ``embed_positions``. ``positions_BT`` are int64 places of the tokens, where they are not ``0..T-1``.
    """

    layer_class: type[TransformerLayer] = TransformerLayer

    def create_layers(self, config: EncoderConfig, *, eps: float = 1e-5, embedding_norm: bool = True) -> None:
        """Create all that stands here; ``eps`` is that of the norms outside of the layers."""
        self.config = config
        learned = config.position_encoding == "learned"
        self.embed_positions = nn.Embedding(config.max_positions, config.embed_dim) if learned else None
        self.layernorm_embedding = config.build_norm(eps) if embedding_norm else None
        self.layers = nn.ModuleList(self.layer_class(config, number) for number in range(config.num_layers))
        self.layer_norm = config.build_norm(eps) if config.normalize_before else None

    def enter(self, hidden_BTD: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """Return what enters the layers: learned positions added, where it has them, normalised, with dropout."""
        if self.embed_positions is not None and positions_BT is None:
            hidden_BTD = hidden_BTD + self.embed_positions.weight[: hidden_BTD.shape[1]]
        elif self.embed_positions is not None:
            hidden_BTD = hidden_BTD + self.embed_positions(positions_BT)
        if self.layernorm_embedding is not None:
            hidden_BTD = self.layernorm_embedding(hidden_BTD)
        return dropout(hidden_BTD, self.config.dropout, self.training)

    def rotation(
        self, hidden_BTD: Tensor, positions_BT: Tensor | None = None, *, local: bool = False
    ) -> Tensor | None:
        """Return what rotary positions turn queries and keys by, None where it has none."""
        config = self.config
        if config.position_encoding != "rotary":
            return None
        theta = config.rope_local_theta if local else config.rope_theta
        places_BT = _places(hidden_BTD, positions_BT)
        return rotation_of(places_BT, config.embed_dim // config.num_heads, theta, hidden_BTD.dtype)

    def reaches(
        self,
        hidden_BTD: Tensor,
        positions_BT: Tensor | None = None,
        visible: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Reaches:
        """Return what the layers are given to attend to; the arguments as in ``reach_of``."""
        everywhere = Reach(reach_of(visible, None, bias), self.rotation(hidden_BTD, positions_BT))
        if not any(layer.is_local for layer in self.layers):
            return Reaches(everywhere, everywhere)
        window = window_mask(_places(hidden_BTD, positions_BT), self.config.attention_window)
        rotation = self.rotation(hidden_BTD, positions_BT, local=True)
        return Reaches(everywhere, Reach(reach_of(visible, window, bias), rotation))

    def run_layers(
        self, hidden: Tensor, reaches: Reaches, *context: Tensor | None, part: slice | None = None
    ) -> list[Tensor]:
        """Return the layers' input and each layer's output, the last one normalised.

        Under ``checkpoint_activations`` each layer is computed again in backward.

        Args:
            context: what every layer is given beside the hidden states and its reach.
            part: of the layers, to run those only; their last output stays as it is.
        """
        states = [hidden]
        for layer in self.layers[part or slice(None)]:
            reach = reaches.nearby if layer.is_local else reaches.everywhere
            if self.config.checkpoint_activations and self.training:
                hidden = checkpoint(layer, hidden, *reach, *context, use_reentrant=False)
            else:
                hidden = layer(hidden, *reach, *context)
            states.append(hidden)
        if part is None and self.layer_norm is not None:
            states[-1] = self.layer_norm(hidden)
        return states


class EmbeddedStack(LayerStack):
    """Positions, a norm, dropout and layers that share relative positions.

    What they are added to, the tokens' embeddings, is a subclass's, or is passed in.
    """

    def create_stack(self, config: EncoderConfig) -> None:
        """Create all that stands here."""
        self.create_layers(config, eps=config.layer_norm_eps)
        self.relative_position = None
        if config.relative_position != "none":
            self.relative_position = RelativePositionBias(
                config.relative_position,
                num_heads=config.num_heads,
                num_buckets=config.relative_position_buckets,
                max_distance=config.relative_position_max_distance,
                max_positions=config.max_positions,
            )

    def embed(
        self,
        token_embeddings_BTD: Tensor,
        positions_BT: Tensor | None,
        padding_BT: Tensor | None,
        documents_BT: Tensor | None = None,
    ) -> tuple[Tensor, Reaches]:
        """Return what enters the layers, and what their attention reaches: no padding, no other document."""
        places_BT = places_within(documents_BT) if positions_BT is None else positions_BT
        hidden = self.enter(token_embeddings_BTD, places_BT)
        bias = None
        if self.relative_position is not None:  # columns are as far apart as places within a document
            bias = self.relative_position(hidden.shape[1], positions_BT).to(hidden.dtype)
        return hidden, self.reaches(hidden, places_BT, visible_keys(padding_BT, documents_BT), bias)


class Encoded(NamedTuple):
    """What an encoder makes of a batch."""

    states: list[Tensor]  # [B, T, D] each: the embedding's and every layer's
    hidden_BTD: Tensor  # the last of them


class TransformerEncoder(EmbeddedStack):
    """Token embeddings and an ``EmbeddedStack`` on them.

    Pre-LN models end with a LayerNorm of their own. Padding must be at the end of a row; what comes out at
    padded positions means nothing.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embed_dim, config.pad_index)
        self.create_stack(config)
        self.apply(init_bert_weights)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        padding_BT: Tensor | None = None,
        token_embeddings_BTD: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Encoded:
        """Run the layers.

        Args:
            positions_BT: where they are not ``0..T-1`` or, with documents, those within each.
            padding_BT: bool, True at padding; None where the batch has none.
            token_embeddings_BTD: used in place of ``embed_tokens(tokens_BT)``.
            documents_BT: int64, whose tokens attend to those of the same number only; another one at padding.
        """
        if positions_BT is None:
            check_length(tokens_BT.shape[1], self.config.max_positions, "encoder")
        embedded = self.embed_tokens(tokens_BT) if token_embeddings_BTD is None else token_embeddings_BTD
        states = self.run_layers(*self.embed(embedded, positions_BT, padding_BT, documents_BT))
        return Encoded(states, states[-1])


def _places(hidden_BTD: Tensor, positions_BT: Tensor | None) -> Tensor:
    return torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)[None] if positions_BT is None else positions_BT


def check_length(length: int, max_positions: int, network: str) -> None:
    """Refuse, as a ``UserError``, a batch that is longer than a network has positions."""
    if length > max_positions:
        raise UserError(f"{length} tokens are more than the {network}'s {max_positions} positions")


def init_bert_weights(module: nn.Module) -> None:
    """BERT's initialisation: normal(0, 0.02) weights, zero biases, a zero row for padding.

    Source: Devlin et al. 2019; the same law as fairseq's ``init_bert_params``.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
