"""Does AMOS's adversary do what it says? Steps on the mixture's v alone, and the loss that it plays against.

Generator, embeddings and discriminator stay as they are. v descends the training loss, whose gradient reaches
it reversed (``--adversarial-scale`` -1), so that the discriminator's loss ought to rise; unreversed (+1) it
ought to fall. That loss is measured before and after on other batches, with the same Gumbel noise each time:
only v differs.

Source: 2204.03243, Section 3.3, "Learning Adversarial Mixture Weights", and Eq. 4.
Shapes: B batches, K depths.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq_masking.errors import UserError

__all__ = ["Difference", "HeldOut", "adversary_path", "difference", "measure"]

Batch = dict[str, Any]


class HeldOut(NamedTuple):
    """What is measured after ``step`` steps on v.

    Attributes:
        losses_B: the discriminator's mean loss a token in nats, of each held-out batch, fp64.
        weights_K: mean mixture weight of each depth.
        replaced: share of the masked tokens where another token was sampled.
    """

    step: int
    losses_B: Tensor
    weights_K: Tensor
    replaced: float


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
    """Take steps on v with Adam, as in training; the model is afterwards as it was before.

    Args:
        model: an ``AmosModel`` whose mixture is learned.
        batches: ``net_input`` of design.md, gone through again and again.
        held_out: others, to measure on.
        scale: factor of the gradient that reaches v: -1 is AMOS.
        every: steps between measurements; the first is before any step.
        uniform_start: begin with v = 0, all depths weighed the same, not where the model is: weights that are
            at an extreme can go in one direction only.

    Raises:
        UserError: the model has no v.
    """
    if model.mixture.score is None:
        raise UserError(
            "this model's mixture learns nothing: give one of --mixture adversarial with two depths"
        )
    vector = model.mixture.score.weight
    with _only(model, vector, scale):
        if uniform_start:
            torch.nn.init.zeros_(vector)
        optimizer = torch.optim.Adam([vector], lr=lr)
        path = [measure(model, held_out, step=0)]
        for step, batch in zip(range(1, num_steps + 1), itertools.cycle(batches)):
            optimizer.zero_grad()
            output = model(**batch)
            (output.detection_losses_BT.sum() / _num_tokens(output)).backward()
            optimizer.step()
            if step % every == 0 or step == num_steps:
                path.append(measure(model, held_out, step=step))
    return path


@torch.no_grad()
def measure(model: Any, batches: Sequence[Batch], *, step: int = 0) -> HeldOut:
    """Measure the discriminator's loss on each batch, with the noise of the batch's ``noise_seed``."""
    outputs = [model(**batch) for batch in batches]
    losses = [output.detection_losses_BT.double().sum() / _num_tokens(output) for output in outputs]
    sampled = sum(output.sampled_N.numel() for output in outputs)
    replaced = sum(int((~output.original_BT).sum()) for output in outputs)
    weights_NK = torch.cat([output.weights_NK for output in outputs])
    return HeldOut(step, torch.stack(losses).cpu(), weights_NK.mean(0).cpu(), replaced / sampled)


def difference(after: HeldOut, before: HeldOut) -> Difference:
    """Return after - before, batch by batch: what the batches have in common drops out."""
    values_B = after.losses_B - before.losses_B
    return Difference(float(values_B.mean()), float(values_B.std()) / math.sqrt(len(values_B)))


def _num_tokens(output: Any) -> int:
    padding = output.padding_BT
    return output.original_BT.numel() - (0 if padding is None else int(padding.sum()))


@contextmanager
def _only(model: Any, vector: Tensor, scale: float) -> Iterator[None]:
    """Let ``vector`` alone learn, without dropout and with ``scale``; then put everything back."""
    needed = {parameter: parameter.requires_grad for parameter in model.parameters()}
    before, training, own_scale = vector.detach().clone(), model.training, model.adversarial_scale
    model.requires_grad_(False).eval()
    vector.requires_grad_(True)
    model.adversarial_scale = scale
    try:
        yield
    finally:
        model.adversarial_scale = own_scale
        model.train(training)
        vector.grad = None
        with torch.no_grad():
            vector.copy_(before)
        for parameter, wanted in needed.items():
            parameter.requires_grad_(wanted)
