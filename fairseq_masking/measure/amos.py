"""AMOS on a checkpoint: what its generator puts in place of masked tokens, and what its adversary does.

Sources of tokens are the generator's K depths, each by itself, and their mixture (2204.03243, Eq. 2 and 3).
All draw with the same Gumbel noise, so that they differ only where their predictions do.

Does the adversary do what it says (Section 3.3, "Learning Adversarial Mixture Weights", and Eq. 4)? The mixture's v
alone descends the training loss, whose gradient reaches it reversed (``--adversarial-scale`` -1), so that the
discriminator's loss ought to rise; unreversed (+1) it ought to fall. It is measured with the same Gumbel noise.

Shapes: B batch or batches, T length, N masked tokens, K depths, S = K + 1 sources, D width, V vocabulary.
"""

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.errors import UserError
from fairseq_masking.methods.amos.generator import depth_names
from fairseq_masking.methods.amos.gumbel_mixture import gumbel_mixture
from fairseq_masking.models import AmosModel
from fairseq_masking.ops import corrupt_tokens, gather_positions

__all__ = [
    "Difference", "HeldOut", "ReplacementLosses", "Sources", "adversary_path", "detect", "difference", "draw",
    "generate", "load_amos", "measure", "predict", "replacement_losses", "source_names",
]  # fmt: skip

Batch = dict[str, Any]  # ``net_input`` of design.md


def load_amos(checkpoint: Path, data: Path | None) -> HubInterface:
    """Return the checkpoint of an AMOS model; one of another method is a ``UserError``."""
    hub = AmosModel.from_pretrained(checkpoint, data=data)
    if not isinstance(hub.model, AmosModel):
        raise UserError(f"{checkpoint} is a {type(hub.model).__name__}, not one of --arch amos_*: give one")
    return hub


class Sources(NamedTuple):
    """What the sources say of the masked tokens."""

    hidden_SND: Tensor  # logits once multiplied with the embedding; the mixture is the last
    weights_NK: Tensor  # of the depths in the mixture


class ReplacementLosses(NamedTuple):
    """Of one source."""

    losses: Tensor  # the discriminator's loss in nats at each token that is not the original, fp32
    num_masked: int  # tokens that were masked, those of them that got the original back among them


def source_names(model: Any) -> list[str]:
    """Return a name for each source."""
    return [*(f"layer {name}" for name in depth_names(model.depths)), "mixture"]


@torch.no_grad()
def generate(
    model: Any, src_tokens: Tensor, *, positions: Tensor, replacements: Tensor, batch_seed: int, **_: Any
) -> Sources:
    """Run the generator of an ``AmosModel``; ``--mixture random_layer`` draws a depth with ``batch_seed``."""
    corrupted = corrupt_tokens(src_tokens, positions, replacements)
    generated = model.generator(model.encoder.embed_tokens(corrupted), positions, src_tokens.eq(model.pad_index))
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
    head = (model.encoder.embed_tokens.weight, model.generator.lm_head.bias)
    mixtures = (gumbel_mixture(hidden_ND[None], ones_N1, *head, seed=seed) for hidden_ND in sources.hidden_SND)
    return torch.stack([mixture.tokens_N for mixture in mixtures])


@torch.no_grad()
def detect(model: Any, tokens_BT: Tensor, padding_BT: Tensor | None) -> Tensor:
    """Return the discriminator's logits ``[B, T]``, fp32: positive for tokens it takes for original.

    ``padding_BT`` is that of the original text: a <pad> that was drawn is none.
    """
    hidden_BTD = model.encoder(tokens_BT, padding_BT=padding_BT).hidden_BTD
    return model.detection_head(hidden_BTD).squeeze(-1).float()


def replacement_losses(model: Any, batches: Iterable[Batch]) -> list[ReplacementLosses]:
    """Measure the discriminator's loss on the tokens that each source by itself puts in place.

    Source: 2204.03243, Fig. 1a. Deviation: the depths of one generator before the one discriminator that
    learned from their mixture, where the paper has a model of its own for each depth.
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


class HeldOut(NamedTuple):
    """What is measured after ``step`` steps on v."""

    step: int
    losses_B: Tensor  # the discriminator's mean loss a token in nats, of each held-out batch, fp64
    weights_K: Tensor  # mean mixture weight of each depth
    replaced: float  # share of the masked tokens where another token was sampled


class Difference(NamedTuple):
    """Mean over the batches of a difference in loss, nats a token, and its standard error."""

    mean: float
    standard_error: float


def adversary_path(
    model: Any,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    *,
    scale: float,
    num_steps: int,
    every: int,
    lr: float,
    uniform_start: bool = False,
) -> list[HeldOut]:
    """Take steps on the v of a copy of the model with Adam, as in training; nothing else learns, without dropout.

    Args:
        batches: gone through again and again.
        held_out: others, to measure on before any step and after ``every`` so many.
        scale: factor of the gradient that reaches v: -1 is AMOS.
        uniform_start: begin with v = 0, all depths weighed the same, not where the model is: weights that are
            at an extreme can go in one direction only.

    Raises:
        UserError: the model has no v.
    """
    if model.mixture.score is None:
        raise UserError("this model's mixture learns nothing: give one of --mixture adversarial with two depths")
    model = copy.deepcopy(model).requires_grad_(False).eval()
    model.adversarial_scale = scale
    vector = model.mixture.score.weight.requires_grad_(True)
    if uniform_start:
        torch.nn.init.zeros_(vector)
    optimizer = torch.optim.Adam([vector], lr=lr)
    path = [measure(model, held_out)]
    for step, batch in zip(range(1, num_steps + 1), itertools.cycle(batches)):
        optimizer.zero_grad()
        _mean_loss(model(**batch)).backward()
        optimizer.step()
        if step % every == 0 or step == num_steps:
            path.append(measure(model, held_out, step=step))
    return path


@torch.no_grad()
def measure(model: Any, batches: Sequence[Batch], *, step: int = 0) -> HeldOut:
    """Measure the discriminator's loss on each batch, with the noise of the batch's ``noise_seed``."""
    outputs = [model(**batch) for batch in batches]
    losses_B = torch.stack([_mean_loss(output, torch.float64) for output in outputs]).cpu()
    replaced = sum(int((~output.original_BT).sum()) for output in outputs)
    weights_NK = torch.cat([output.weights_NK for output in outputs])
    return HeldOut(step, losses_B, weights_NK.mean(0).cpu(), replaced / len(weights_NK))


def difference(after: HeldOut, before: HeldOut) -> Difference:
    """Return after - before, batch by batch: what the batches have in common drops out."""
    values_B = after.losses_B - before.losses_B
    return Difference(float(values_B.mean()), float(values_B.std()) / math.sqrt(len(values_B)))


def _mean_loss(output: Any, dtype: torch.dtype | None = None) -> Tensor:
    """The discriminator's, over all tokens but padding."""
    losses_BT, padding_BT = output.detection_losses_BT, output.padding_BT
    num_tokens = losses_BT.numel() - (0 if padding_BT is None else int(padding_BT.sum()))
    return losses_BT.sum(dtype=dtype) / num_tokens
