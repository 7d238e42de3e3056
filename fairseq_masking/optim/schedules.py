"""Learning rates: ``--lr-scheduler linear``, by shares of the training, and ``wsd``, with a decay from any checkpoint.

fairseq's ``polynomial_decay`` takes numbers of updates, which a fine-tuning recipe cannot know: they follow from the
data, the batch size and ``--max-epoch``. ``linear`` has warm-up and decay as shares of the whole.

``wsd`` is warm-up, a stable rate, and a decay. A run whose end is open stays on the plateau; resumed with
``--decay-updates`` and a new ``--max-update``, from its last checkpoint or from an earlier one, it decays to that.

Source: Hu et al. 2024 (MiniCPM, 2404.06395), Section 4.2; Hägele et al. 2024 (2405.18392), Eq. 3, the shape 1-sqrt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, List

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from fairseq_masking.compat.options import option
from fairseq_masking.compat.patching import replaces
from fairseq_masking.errors import UserError

__all__ = ["LinearSchedule", "LinearScheduleConfig", "WSDSchedule", "WSDScheduleConfig"]

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "1-sqrt": lambda done: 1 - math.sqrt(done),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
SHAPE_CHOICES = ChoiceEnum(list(SHAPES))


class _ByUpdates(FairseqLRScheduler):
    """The rate of an update follows from its number."""

    def step_begin_epoch(self, epoch: int) -> float:
        """Leave the rate as it is."""
        return self.optimizer.get_lr()


@dataclass
class LinearScheduleConfig(FairseqDataclass):
    warmup_ratio: float = option(0.06, "share of all updates in which the learning rate rises")
    max_epoch: int = II("optimization.max_epoch")
    max_update: int = II("optimization.max_update")
    lr: List[float] = II("optimization.lr")  # noqa: RUF009 - a string


@register_lr_scheduler("linear", dataclass=LinearScheduleConfig)
class LinearSchedule(_ByUpdates):
    """A linear rise to ``--lr`` and a linear fall towards 0, over ``--max-epoch`` or ``--max-update``.

    Of U updates W = ceil(ratio * U) warm up. Update n (from 0) has the rate lr * min((n + 1) / W,
    (U - n) / (U - W)): every update moves the weights, and the one after the last would have rate 0.

    Raises:
        UserError: neither limit is given.
    """

    cfg: LinearScheduleConfig

    def __init__(self, cfg: LinearScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        if cfg.max_epoch <= 0 and cfg.max_update <= 0:
            raise UserError("--lr-scheduler linear has to know when training ends: give --max-epoch or --max-update")
        self._total = cfg.max_update if cfg.max_update > 0 else math.inf

    def set_epoch_length(self, num_updates: int) -> None:
        """Say how many updates an epoch has."""
        limits = (self.cfg.max_epoch * num_updates, self.cfg.max_update)
        self._total = min(limit for limit in limits if limit > 0)

    def step_update(self, num_updates: int) -> float:
        """Set the rate of the update that follows ``num_updates`` others."""
        if self._total < math.inf:
            self.optimizer.set_lr(self.cfg.lr[0] * self._share(num_updates))
        return self.optimizer.get_lr()

    def _share(self, num_updates: int) -> float:
        warmup = math.ceil(self.cfg.warmup_ratio * self._total)
        if num_updates < warmup:
            return (num_updates + 1) / warmup
        return max(0.0, (self._total - num_updates) / (self._total - warmup)) if self._total > warmup else 0.0


@replaces("fairseq.trainer:Trainer", "get_train_iterator")
def _tell_epoch_length(original: Callable[..., Any], self: Any, epoch: int, *args: Any, **options: Any) -> Any:
    batches = original(self, epoch, *args, **options)
    if isinstance(self.lr_scheduler, LinearSchedule):
        accumulated = self.cfg.optimization.update_freq
        accumulated = accumulated[min(epoch, len(accumulated)) - 1]
        self.lr_scheduler.set_epoch_length(math.ceil(len(batches) / accumulated))
    return batches


@dataclass
class WSDScheduleConfig(FairseqDataclass):
    warmup_updates: int = option(0, "updates in which the learning rate rises linearly")
    decay_updates: int = option(0, "updates before --max-update in which the learning rate falls (0: never)")
    decay_shape: SHAPE_CHOICES = option("1-sqrt", "how it falls: a share done of 0 to 1 takes it to 0")
    max_update: int = II("optimization.max_update")
    lr: List[float] = II("optimization.lr")  # noqa: RUF009 - a string


@register_lr_scheduler("wsd", dataclass=WSDScheduleConfig)
class WSDSchedule(_ByUpdates):
    """Update n (from 0) of U, W of them warm-up and D decay, has the rate lr min((n + 1) / W, f((n - U + D) / D)).

    Every update moves the weights, and the one after the last would have rate 0.

    Raises:
        UserError: the parts do not fit, or decay has no end.
    """

    cfg: WSDScheduleConfig

    def __init__(self, cfg: WSDScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        if cfg.decay_updates and cfg.max_update < cfg.warmup_updates + cfg.decay_updates:
            raise UserError(
                f"--lr-scheduler wsd: --warmup-updates {cfg.warmup_updates} and --decay-updates {cfg.decay_updates}"
                f" do not fit into --max-update {cfg.max_update}, at which the decay ends"
            )
        self._fall = SHAPES[str(cfg.decay_shape)]

    def step_update(self, num_updates: int) -> float:
        """Set the rate of the update that follows ``num_updates`` others."""
        cfg = self.cfg
        share = min(1.0, (num_updates + 1) / max(1, cfg.warmup_updates))
        if cfg.decay_updates:
            done = (num_updates - cfg.max_update + cfg.decay_updates) / cfg.decay_updates
            share = min(share, self._fall(min(max(done, 0.0), 1.0)))
        self.optimizer.set_lr(cfg.lr[0] * share)
        return self.optimizer.get_lr()
