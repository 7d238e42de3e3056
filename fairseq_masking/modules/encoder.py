"""The one Transformer encoder that every method trains.

Its parameters correspond one to one to fairseq's RoBERTa (``checkpoints/key_table.py``).
Shapes: B batch, T length, D width, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairseq_masking.errors import UserError
from fairseq_masking.modules.attention import SelfAttention
from fairseq_masking.modules.relative_position import RelativePositionBias
from fairseq_masking.ops import dropout

__all__ = [
    "ACTIVATIONS",
    "EncoderConfig",
    "EmbeddedStack",
    "LayerStack",
    "TransformerEncoder",
    "TransformerLayer",
    "check_length",
    "get_activation",
    "init_bert_weights",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": F.tanh}


@dataclass(frozen=True)
class EncoderConfig:
    """Shape and regularisation of a Transformer encoder."""

    vocab_size: int
    pad_index: int
    num_layers: int
    embed_dim: int
    ffn_dim: int
    num_heads: int
    max_positions: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    activation: str = "gelu"
    layer_norm_eps: float = 1e-5
    normalize_before: bool = False
    relative_position: str = "none"
    relative_position_buckets: int = 32
    relative_position_max_distance: int = 128
    checkpoint_activations: bool = False


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with dropout and a residual, post-LN or pre-LN."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.normalize_before = config.normalize_before
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.activation = get_activation(config.activation)
        self.self_attn = SelfAttention(config.embed_dim, config.num_heads, dropout=config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.embed_dim, config.layer_norm_eps)
        self.fc1 = nn.Linear(config.embed_dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.embed_dim)
        self.final_layer_norm = nn.LayerNorm(config.embed_dim, config.layer_norm_eps)

    def forward(self, hidden_BTD: Tensor, attention_bias: Tensor | None = None) -> Tensor:
        """Return float ``[B, T, D]``; ``attention_bias`` as in ``SelfAttention``."""
        if self.normalize_before:
            hidden_BTD = hidden_BTD + self._attend(self.self_attn_layer_norm(hidden_BTD), attention_bias)
            return hidden_BTD + self._feed_forward(self.final_layer_norm(hidden_BTD))
        hidden_BTD = self.self_attn_layer_norm(hidden_BTD + self._attend(hidden_BTD, attention_bias))
        return self.final_layer_norm(hidden_BTD + self._feed_forward(hidden_BTD))

    def _attend(self, hidden_BTD: Tensor, attention_bias: Tensor | None) -> Tensor:
        return dropout(self.self_attn(hidden_BTD, attention_bias), self.dropout, self.training)

    def _feed_forward(self, hidden_BTD: Tensor) -> Tensor:
        inner = self.activation(self.fc1(hidden_BTD))
        inner = dropout(inner, self.activation_dropout, self.training)
        return dropout(self.fc2(inner), self.dropout, self.training)


class LayerStack(nn.Module):
    """What networks of Transformer layers share. A subclass creates what stands here, and what feeds it.

    ``layer_norm`` comes after the last layer of pre-LN stacks; others have none.
    """

    config: EncoderConfig
    layers: nn.ModuleList
    layer_norm: nn.LayerNorm | None

    def run_layers(self, hidden: Tensor, *context: Tensor | None, part: slice | None = None) -> list[Tensor]:
        """Return the layers' input and each layer's output, the last one normalised.

        Under ``checkpoint_activations`` each layer is computed again in backward.

        Args:
            context: what every layer is given beside the hidden states.
            part: of the layers, to run those only; their last output stays as it is.
        """
        states = [hidden]
        for layer in self.layers[part or slice(None)]:
            if self.config.checkpoint_activations and self.training:
                hidden = checkpoint(layer, hidden, *context, use_reentrant=False)
            else:
                hidden = layer(hidden, *context)
            states.append(hidden)
        if part is None and self.layer_norm is not None:
            states[-1] = self.layer_norm(hidden)
        return states


class EmbeddedStack(LayerStack):
    """Learned absolute positions, LayerNorm, dropout and layers that share relative positions.

    What they are added to, the tokens' embeddings, is a subclass's, or is passed in.
    """

    def create_stack(self, config: EncoderConfig) -> None:
        """Create all that stands here."""
        self.config = config
        self.embed_positions = nn.Embedding(config.max_positions, config.embed_dim)
        self.layernorm_embedding = nn.LayerNorm(config.embed_dim, config.layer_norm_eps)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.layer_norm = nn.LayerNorm(config.embed_dim, config.layer_norm_eps) if config.normalize_before else None
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
        self, token_embeddings_BTD: Tensor, positions_BT: Tensor | None, padding_BT: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return what enters the layers, and their attention's bias: -inf (or False) at padding."""
        length = token_embeddings_BTD.shape[1]
        places = self.embed_positions.weight[:length] if positions_BT is None else self.embed_positions(positions_BT)
        hidden = self.layernorm_embedding(token_embeddings_BTD + places)
        hidden = dropout(hidden, self.config.dropout, self.training)
        visible = None if padding_BT is None else ~padding_BT[:, None, None, :]
        if self.relative_position is None:
            return hidden, visible
        bias = self.relative_position(length, positions_BT).to(hidden.dtype)
        return hidden, bias if visible is None else bias.masked_fill(~visible, float("-inf"))


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
    ) -> list[Tensor]:
        """Return the states ``[B, T, D]`` of the embedding and of every layer.

        Args:
            tokens_BT: int64 token ids.
            positions_BT: int64 places of the tokens, where they are not ``0..T-1``.
            padding_BT: bool, True at padding; None where the batch has none.
            token_embeddings_BTD: used in place of ``embed_tokens(tokens_BT)``.

        Raises:
            UserError: the batch is longer than ``max_positions``.
        """
        if positions_BT is None:
            check_length(tokens_BT.shape[1], self.config.max_positions, "encoder")
        embedded = self.embed_tokens(tokens_BT) if token_embeddings_BTD is None else token_embeddings_BTD
        return self.run_layers(*self.embed(embedded, positions_BT, padding_BT))


def get_activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation called ``name``.

    Raises:
        UserError: ``name`` is not one of ``ACTIVATIONS``.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


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
