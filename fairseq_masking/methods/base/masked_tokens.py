"""What objectives on masked tokens share: what they need of a model, and what they log of it.

They log loss, perplexity and accuracy, in all and by corruption. A criterion names the class of output that
it needs; the task checks that model and criterion fit. Logging outputs hold sums and counts only, under the
same keys on every rank, because fairseq adds them up.
Shapes: N masked tokens of the batch, in the order of ``positions``.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from fairseq import utils
from fairseq.logging import metrics
from torch import Tensor

from fairseq_masking.masking import Kind
from fairseq_masking.ops import gather_positions

__all__ = ["Loss", "MaskedTokenOutput", "log_mean_of", "masked_token_logs", "on_host", "reduce_masked_token_logs"]

Loss = tuple[Tensor, int, dict[str, Any]]  # a batch's summed loss, what it is divided by, the sums to log
KINDS = [kind.name.lower() for kind in Kind]
MEASURE = "measure_"  # before the names of what a model measures itself


class MaskedTokenOutput(NamedTuple):
    """What criterions on masked tokens need."""

    losses_N: Tensor  # cross-entropy in nats, fp32
    predictions_N: Tensor  # int64 arg max
    # by name, the same in every batch: what else is to be logged, means over its rows, known on the host
    measures: Mapping[str, float] = MappingProxyType({})


def masked_token_logs(output: MaskedTokenOutput, sample: dict[str, Any]) -> dict[str, Any]:
    """Return sums over the batch's masked tokens; losses are in nats."""
    batch = sample["net_input"]
    losses, kinds = output.losses_N.detach(), batch["kinds"].long()
    targets = gather_positions(batch["src_tokens"], batch["positions"])
    correct = output.predictions_N == targets
    if observe := sample.get("observe"):  # the task's masks follow what the model guesses
        observe(targets, correct)
    loss_by_kind = losses.new_zeros(len(KINDS)).index_add_(0, kinds, losses)
    count_by_kind = losses.new_zeros(len(KINDS)).index_add_(0, kinds, torch.ones_like(losses))
    logs = {
        "loss": loss_by_kind.sum(),
        "num_correct": correct.sum(),
        "sample_size": losses.numel(),
        "ntokens": sample["ntokens"],
        "nsentences": sample["nsentences"],
        "num_skipped": sample["num_skipped"],
    }
    for index, kind in enumerate(KINDS):
        logs[f"loss_{kind}"] = loss_by_kind[index]
        logs[f"num_{kind}"] = count_by_kind[index]
    for name, mean in getattr(output, "measures", {}).items():
        logs[f"{MEASURE}{name}"] = mean * sample["nsentences"]
    return logs


def reduce_masked_token_logs(logging_outputs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Log loss (bits a masked token), perplexity, accuracy, and loss and perplexity by corruption.

    Returns:
        What there is to log: the sums, by ``on_host``.
    """
    sums = on_host(logging_outputs)
    _log_loss(sums, "", "sample_size", priority=10)
    for kind in KINDS:
        _log_loss(sums, f"_{kind}", f"num_{kind}", priority=20)
    log_mean_of(sums, "accuracy", "num_correct", "sample_size", scale=100, priority=12, digits=2)
    for key in sums:
        if key.startswith(MEASURE):
            log_mean_of(sums, key.removeprefix(MEASURE), key, "nsentences", priority=25, digits=3)
    if sums.get("num_skipped"):
        metrics.log_scalar_sum("skipped", sums["num_skipped"], priority=30)
    return sums


def on_host(logging_outputs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the sums over ranks and micro-batches as Python numbers, with a single wait for the device."""
    sums = {key: sum(log[key] for log in logging_outputs) for key in (logging_outputs or [{}])[0]}
    tensors = {key: value for key, value in sums.items() if isinstance(value, Tensor)}
    if tensors:
        values = torch.stack([value.double() for value in tensors.values()]).tolist()
        sums.update(zip(tensors, values, strict=True))
    return sums


def log_mean_of(
    sums: Mapping[str, float], name: str, part: str, count: str, *, scale: float = 1.0, priority: int, digits: int = 4
) -> None:
    """Log ``scale * part / count`` of the sums as ``name``, weighted by ``count``: nothing if 0."""
    weight = sums.get(count, 0)
    if weight > 0:
        metrics.log_scalar(name, scale * sums[part] / weight, weight, priority=priority, round=digits)


def _log_loss(sums: Mapping[str, float], kind: str, count: str, *, priority: int) -> None:
    name, weight = f"loss{kind}", sums.get(count, 0)
    if weight > 0:
        metrics.log_scalar(name, sums[name] / weight / math.log(2), weight, priority=priority, round=3)
        metrics.log_derived(f"ppl{kind}", lambda meters: utils.get_perplexity(meters[name].avg), priority=priority + 1)
