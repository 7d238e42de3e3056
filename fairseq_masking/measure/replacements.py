"""What AMOS's generator puts in place of masked tokens, and what the discriminator says of it.

Sources are the generator's K depths, each by itself, and their mixture (2204.03243, Eq. 2 and 3). All draw
with the same Gumbel noise, so that they differ only where their predictions do.
Shapes: B batch, T length, N masked tokens, K depths, S = K + 1 sources, D width, V vocabulary.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_masking.methods.amos.generator import depth_names
from fairseq_masking.methods.amos.gumbel_mixture import gumbel_mixture
from fairseq_masking.ops import corrupt_tokens, gather_positions

__all__ = [
    "ReplacementLosses",
    "Sources",
    "detect",
    "draw",
    "generate",
    "predict",
    "replacement_losses",
    "source_names",
]


class Sources(NamedTuple):
    """What the sources say of the masked tokens.

    Attributes:
        hidden_SND: logits once multiplied with the embedding; the mixture is the last.
        weights_NK: of the depths in the mixture.
    """

    hidden_SND: Tensor
    weights_NK: Tensor


class ReplacementLosses(NamedTuple):
    """Of one source.

    Attributes:
        losses: the discriminator's loss in nats at each token that is not the original, fp32.
        num_masked: tokens that were masked, those of them that got the original back among them.
    """

    losses: Tensor
    num_masked: int


def source_names(model: Any) -> list[str]:
    """Return a name for each source."""
    return [*(f"layer {name}" for name in depth_names(model.depths)), "mixture"]


@torch.no_grad()
def generate(
    model: Any, src_tokens: Tensor, *, positions: Tensor, replacements: Tensor, batch_seed: int, **_: Any
) -> Sources:
    """Run the generator of an ``AmosModel`` on a batch of design.md.

    Args:
        batch_seed: what ``--mixture random_layer`` draws a depth with.
    """
    corrupted = corrupt_tokens(src_tokens, positions, replacements)
    padding_BT = src_tokens.eq(model.pad_index)
    generated = model.generator(model.encoder.embed_tokens(corrupted), positions, padding_BT)
    weights_NK = model.mixture_weights(generated.features_KND, batch_seed)
    hidden_KND = generated.hidden_KND
    mixed_ND = torch.einsum("nk,knd->nd", weights_NK.to(hidden_KND.dtype), hidden_KND)
    return Sources(torch.cat((hidden_KND, mixed_ND[None])), weights_NK)


@torch.no_grad()
def predict(model: Any, sources: Sources) -> Tensor:
    """Return every source's probabilities ``[S, N, V]``, fp32: for a handful of tokens."""
    embedding_VD, head = model.encoder.embed_tokens.weight, model.generator.lm_head
    return head.projected_logits(sources.hidden_SND, embedding_VD).float().softmax(-1)


@torch.no_grad()
def draw(model: Any, sources: Sources, *, seed: int) -> Tensor:
    """Draw a token of each source for each masked one: int64 ``[S, N]``."""
    ones_N1 = torch.ones_like(sources.weights_NK[:, :1])
    embedding_VD, head = model.encoder.embed_tokens.weight, model.generator.lm_head
    return torch.stack(
        [
            gumbel_mixture(hidden_ND[None], ones_N1, embedding_VD, head.bias, seed=seed).tokens_N
            for hidden_ND in sources.hidden_SND
        ]
    )


@torch.no_grad()
def detect(model: Any, tokens_BT: Tensor, padding_BT: Tensor | None) -> Tensor:
    """Return the discriminator's logits ``[B, T]``, fp32: positive for tokens it takes for original.

    Args:
        padding_BT: of the original text: a <pad> that was drawn is none.
    """
    hidden_BTD = model.encoder(tokens_BT, padding_BT=padding_BT).hidden_BTD
    return model.detection_head(hidden_BTD).squeeze(-1).float()


def replacement_losses(model: Any, batches: Iterable[dict[str, Any]]) -> list[ReplacementLosses]:
    """Measure the discriminator's loss on the tokens that each source by itself puts in place.

    Source: 2204.03243, Fig. 1a. Deviation: the depths of one generator before the one discriminator that
    learned from their mixture, where the paper has a model of its own for each depth.

    Args:
        batches: ``net_input`` of design.md.
    """
    found: list[list[Tensor]] = [[] for _ in source_names(model)]
    num_masked = 0
    for batch in batches:
        tokens_BT, positions = batch["src_tokens"], batch["positions"]
        originals_N = gather_positions(tokens_BT, positions)
        seed = batch["shape"]["noise_seed"]
        drawn_SN = draw(model, generate(model, **batch, batch_seed=seed), seed=seed)
        num_masked += len(originals_N)
        for losses, drawn_N in zip(found, drawn_SN, strict=True):
            replaced_BT = corrupt_tokens(tokens_BT, positions, drawn_N)
            logits_BT = detect(model, replaced_BT, tokens_BT.eq(model.pad_index))
            logits_N = gather_positions(logits_BT, positions)[drawn_N != originals_N]
            losses.append(F.softplus(logits_N).cpu())  # -log(1 - sigmoid(logit)): the target is "replaced"
    return [ReplacementLosses(torch.cat(losses), num_masked) for losses in found]
