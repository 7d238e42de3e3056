"""``--lr-scheduler linear``: warm-up and decay as shares of the whole training.

fairseq's ``polynomial_decay`` takes numbers of updates. A fine-tuning recipe cannot know them: they follow
from the data, the batch size and ``--max-epoch``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, List

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II, DictConfig, OmegaConf

from fairseq_masking.compat.options import option
from fairseq_masking.compat.patching import replace
from fairseq_masking.errors import UserError

__all__ = ["LinearSchedule", "LinearScheduleConfig", "tell_epoch_lengths"]


@dataclass
class LinearScheduleConfig(FairseqDataclass):
    """Options of ``linear``."""

    warmup_ratio: float = option(0.06, "share of all updates in which the learning rate rises")
    max_epoch: int = II("optimization.max_epoch")
    max_update: int = II("optimization.max_update")
    lr: List[float] = II("optimization.lr")  # noqa: RUF009 - a string


@register_lr_scheduler("linear", dataclass=LinearScheduleConfig)
class LinearSchedule(FairseqLRScheduler):
    """A linear rise to ``--lr`` and a linear fall towards 0, over ``--max-epoch`` or ``--max-update``.

    Of U updates W = ceil(ratio * U) warm up. Update n (from 0) has the rate lr * min((n + 1) / W,
    (U - n) / (U - W)): every update moves the weights, and the one after the last would have rate 0.

    Raises:
        UserError: the ratio is no share, or neither limit is given.
    """

    cfg: LinearScheduleConfig

    def __init__(self, cfg: LinearScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        if not 0 <= cfg.warmup_ratio <= 1:
            raise UserError(f"--warmup-ratio {cfg.warmup_ratio}: give a share of 0 to 1, such as 0.06")
        if cfg.max_epoch <= 0 and cfg.max_update <= 0:
            raise UserError("--lr-scheduler linear has to know when training ends: give --max-epoch or --max-update")
        self._total = cfg.max_update if cfg.max_update > 0 else math.inf

    def set_epoch_length(self, num_updates: int) -> None:
        """Say how many updates an epoch has."""
        limits = (self.cfg.max_epoch * num_updates, self.cfg.max_update)
        self._total = min(limit for limit in limits if limit > 0)

    def step_begin_epoch(self, epoch: int) -> float:
        """Leave the rate as it is."""
        return self.optimizer.get_lr()

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


def tell_epoch_lengths(cfg: DictConfig) -> None:
    """Let the trainer tell the schedule how long its epochs are; nothing for any other schedule."""
    if OmegaConf.select(cfg, "lr_scheduler._name") == "linear":
        from fairseq.trainer import Trainer  # late: it takes a while

        replace(Trainer, "get_train_iterator", _tell_epoch_length)


def _tell_epoch_length(original: Callable[..., Any], self: Any, epoch: int, *args: Any, **options: Any) -> Any:
    batches = original(self, epoch, *args, **options)
    if isinstance(self.lr_scheduler, LinearSchedule):
        accumulated = self.cfg.optimization.update_freq
        accumulated = accumulated[min(epoch, len(accumulated)) - 1]
        self.lr_scheduler.set_epoch_length(math.ceil(len(batches) / accumulated))
    return batches
