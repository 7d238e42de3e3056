"""AMOS's generator: one Transformer with a masked-token head at several depths, or a Transformer a depth.

Source: 2204.03243, Section 3.3 and Eq. 2; spec/amos.md, "Generator" and "Sharing".
Shapes: B batch, T length, D width, N masked tokens, K depths, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.modules.encoder import EmbeddedStack, EncoderConfig, check_length, init_bert_weights
from fairseq_masking.modules.heads import MaskedLMHead
from fairseq_masking.ops import gather_positions

__all__ = ["Generator", "GeneratorOutput", "GeneratorStack", "depth_names"]


class GeneratorOutput(NamedTuple):
    """What every depth says of the masked tokens."""

    features_KND: Tensor  # f of Eq. 3, the states at that depth
    hidden_KND: Tensor  # h of Eq. 2 and 3, what the head makes of them: logits once multiplied with the embedding


class GeneratorStack(EmbeddedStack):
    """Positions, embedding LayerNorm, relative positions and layers of its own, read at several depths.

    Args:
        depths: ascending; the last is the number of layers.
        stop_gradient: detach what enters the layer above each depth, so that every block between two depths
            learns from its own head alone. The relative positions learn from all.
    """

    def __init__(self, config: EncoderConfig, depths: Sequence[int], *, stop_gradient: bool) -> None:
        super().__init__()
        self.depths = tuple(depths)
        self.stop_gradient = stop_gradient
        self.create_stack(replace(config, num_layers=depths[-1]))
        self.apply(init_bert_weights)

    def forward(
        self, token_embeddings_BTD: Tensor, padding_BT: Tensor | None = None, documents_BT: Tensor | None = None
    ) -> list[Tensor]:
        """Return the states ``[B, T, D]`` of its input and of every layer, normalised at the depths."""
        check_length(token_embeddings_BTD.shape[1], self.config.max_positions, "generator")
        hidden, reaches = self.embed(token_embeddings_BTD, None, padding_BT, documents_BT)
        states = [hidden]
        for start, depth in pairwise((0, *self.depths)):
            block = self.run_layers(hidden, reaches, part=slice(start, depth))
            hidden = block[-1]
            states += block[1:]
            if self.layer_norm is not None:
                states[-1] = self.layer_norm(hidden)
            if self.stop_gradient:
                hidden = hidden.detach()
        return states


class Generator(nn.Module):
    """Predicts masked tokens at K depths; one head serves them all, and one stack, or ``separate`` ones.

    It has no token embedding: the discriminator's is passed in, and gets gradients from both. Width and kind of layers
    are the discriminator's, dropout is 0.
    """

    def __init__(
        self,
        config: EncoderConfig,
        depths: Sequence[int],
        *,
        separate: bool = False,
        stop_gradient: bool = True,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.depths = check_depths(depths, separate=separate)
        config = replace(config, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
        self.depths_of_stacks = [(depth,) for depth in self.depths] if separate else [self.depths]
        self.stacks = nn.ModuleList(
            GeneratorStack(config, own, stop_gradient=stop_gradient) for own in self.depths_of_stacks
        )
        self.lm_head = MaskedLMHead(config, impl=impl)

    def forward(
        self,
        token_embeddings_BTD: Tensor,
        positions_N: Tensor,
        padding_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> GeneratorOutput:
        """Read the corrupted text, by the embeddings of its tokens, at all depths, at the masked positions."""
        features = []
        for stack, own in zip(self.stacks, self.depths_of_stacks, strict=True):
            states = stack(token_embeddings_BTD, padding_BT, documents_BT)
            features += [gather_positions(states[depth], positions_N) for depth in own]
        features_KND = torch.stack(features)
        return GeneratorOutput(features_KND, self.lm_head.project(features_KND))


def depth_names(depths: Sequence[int]) -> list[str]:
    """Return a name for each depth; equally deep generators are told apart by their number."""
    return [str(depth) if depths.count(depth) == 1 else f"{depth}_{number}" for number, depth in enumerate(depths, 1)]


def check_depths(depths: Sequence[int], *, separate: bool) -> tuple[int, ...]:
    """Return the depths as a tuple: some, from 1 on, in ascending order; separate stacks may be equally deep."""
    option = "--separate-generators" if separate else "--generator-layers"
    shown = ",".join(map(str, depths))
    if not depths or min(depths) < 1:
        raise UserError(f"{option} {shown!r}: numbers of layers from 1 on, such as 4,6,8")
    if any(low > high or (low == high and not separate) for low, high in pairwise(depths)):
        raise UserError(
            f"{option} {shown}: in ascending order, such as 4,6,8"
            + ("" if separate else "; equally deep ones are --separate-generators")
        )
    return tuple(depths)
