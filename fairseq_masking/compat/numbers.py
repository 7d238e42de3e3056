"""A training whose numbers have gone wrong ends in one line, before it replaces a checkpoint of before.

Wrong are a gradient that is not finite, which fairseq finds, and a loss far above that of knowing nothing.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from fairseq import checkpoint_utils

from fairseq_masking.compat.checkpoints import newest_checkpoint
from fairseq_masking.compat.patching import replaces
from fairseq_masking.errors import UserError, first_line

__all__ = ["first_nonfinite"]

logger = logging.getLogger(__name__)

_DIVERGED = 2.0  # times the loss of guessing among all symbols
_IN_A_ROW = 10  # updates: one alone may be of an odd batch
_WAY_OUT = "lower --lr, lengthen its warm-up or lower --clip-norm, then start again"


def first_nonfinite(tensors: Iterator[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor that has NaN or infinity in it."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
            return name
    return None


class _Where:
    """In place of fairseq's detector, around its second pass over the batch: remembers the first place."""

    found = ""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        weight = first_nonfinite(model.named_parameters())
        type(self).found = f"the weights {weight} are not finite" if weight else ""
        self.hooks = [
            module.register_forward_hook(lambda _, inputs, output, name=name: self._look(name, output))
            for name, module in model.named_modules()
        ]

    def __enter__(self) -> "_Where":
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
        gradients = [(name, weight.grad) for name, weight in self.model.named_parameters() if weight.grad is not None]
        if not self.found and (name := first_nonfinite(reversed(gradients))):  # backward comes from the last ones
            type(self).found = f"first in the gradient of {name}"

    def _look(self, name: str, output: Any) -> None:
        parts = [*output.values()] if isinstance(output, dict) else output
        parts = parts if isinstance(parts, (tuple, list)) else [parts]
        tensors = ((name, part) for part in parts if isinstance(part, torch.Tensor))
        if not self.found and first_nonfinite(tensors) is not None:
            type(self).found = f"first in what {name or 'the model'} gives"


@replaces("fairseq.trainer", "NanDetector")
def _detector(original: Callable[..., Any], model: torch.nn.Module) -> _Where:
    return _Where(model)


@replaces("fairseq.trainer:Trainer", "train_step")
def _train_step(original: Callable[..., Any], self: Any, samples: Any, *rest: Any, **options: Any) -> Any:
    try:
        logged = original(self, samples, *rest, **options)
    except FloatingPointError as error:
        told = f"the gradients are not finite, {_Where.found}" if _Where.found else first_line(error)
        wrong = f"update {self.get_num_updates() + 1:,}: {told}"
        left = getattr(self, "_skips_left", getattr(self.task.cfg, "skip_nonfinite", 0))
        if left < 1:
            raise UserError(f"{wrong}; {_kept(self)}: {_WAY_OUT}, or leave N such out (--skip-nonfinite N)") from error
        self._skips_left = left - 1
        self.zero_grad()
        logger.warning("%s: left out, --skip-nonfinite leaves out %d more", wrong, left - 1)
        return None
    loss = (logged or {}).get("loss")
    if loss is not None and (limit := _limit(self)) is not None:
        self._loss, self._above = loss, getattr(self, "_above", 0) + 1 if not loss <= limit else 0
        if self._above >= _IN_A_ROW:
            raise _diverged(self, limit)
    return logged


@replaces(checkpoint_utils, "save_checkpoint")
def _save_unless_diverged(original: Callable[..., Any], cfg: Any, trainer: Any, *rest: Any, **options: Any) -> Any:
    if getattr(trainer, "_above", 0) and (limit := _limit(trainer)) is not None:
        raise _diverged(trainer, limit)
    return original(cfg, trainer, *rest, **options)


def _limit(trainer: Any) -> float | None:
    """The highest loss, in bits a token, of a pre-training that has not diverged; None in its warm-up."""
    schedule, task = trainer.cfg.lr_scheduler, trainer.task
    if not getattr(task, "pretrains", False):
        return None
    warmup = getattr(schedule, "warmup_updates", 0) or 0
    with suppress(TypeError):  # no --max-update
        warmup = max(warmup, getattr(schedule, "warmup_ratio", 0) * trainer.cfg.optimization.max_update)
    return _DIVERGED * math.log2(len(task.source_dictionary)) if trainer.get_num_updates() > warmup else None


def _diverged(trainer: Any, limit: float) -> UserError:
    symbols, updates = len(trainer.task.source_dictionary), trainer.get_num_updates()
    return UserError(
        f"update {updates:,}: the loss is {trainer._loss:.3g} bits a token, more than {_DIVERGED:g} times"
        f" that of guessing among all {symbols:,} symbols ({limit / _DIVERGED:.3g}): training has diverged;"
        f" {_kept(trainer)}: {_WAY_OUT}"
    )


def _kept(trainer: Any) -> str:
    last = newest_checkpoint(trainer.cfg.checkpoint.save_dir)
    return f"the last checkpoint of before is {last}" if last else "there is no checkpoint of before"
