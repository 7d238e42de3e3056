"""``--lr-scheduler wsd``: warm-up, a stable rate, and a decay that may begin from any checkpoint.

The rate of an update follows from its number alone. A run whose end is open stays on the plateau; resumed with
``--decay-updates`` and a new ``--max-update``, from its last checkpoint or from an earlier one, it decays to that.

Source: Hu et al. 2024 (MiniCPM, 2404.06395), Section 4.2; Hägele et al. 2024 (2405.18392), Eq. 3, the shape 1-sqrt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import List

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from fairseq_masking.compat.options import option
from fairseq_masking.errors import UserError

__all__ = ["WSDSchedule", "WSDScheduleConfig"]

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "1-sqrt": lambda done: 1 - math.sqrt(done),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
SHAPE_CHOICES = ChoiceEnum(list(SHAPES))


@dataclass
class WSDScheduleConfig(FairseqDataclass):
    """Options of ``wsd``."""

    warmup_updates: int = option(0, "updates in which the learning rate rises linearly")
    decay_updates: int = option(0, "updates before --max-update in which the learning rate falls (0: never)")
    decay_shape: SHAPE_CHOICES = option("1-sqrt", "how it falls: a share done of 0 to 1 takes it to 0")
    max_update: int = II("optimization.max_update")
    lr: List[float] = II("optimization.lr")  # noqa: RUF009 - a string


@register_lr_scheduler("wsd", dataclass=WSDScheduleConfig)
class WSDSchedule(FairseqLRScheduler):
    """Update n (from 0) of U, W of them warm-up and D decay, has the rate lr min((n + 1) / W, f((n - U + D) / D)).

    Every update moves the weights, and the one after the last would have rate 0.

    Raises:
        UserError: the parts do not fit, or decay has no end.
    """

    cfg: WSDScheduleConfig

    def __init__(self, cfg: WSDScheduleConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        if min(cfg.warmup_updates, cfg.decay_updates) < 0:
            raise UserError(f"--warmup-updates {cfg.warmup_updates} --decay-updates {cfg.decay_updates}: from 0 on")
        if cfg.decay_updates and cfg.max_update < cfg.warmup_updates + cfg.decay_updates:
            raise UserError(
                f"--lr-scheduler wsd: --warmup-updates {cfg.warmup_updates} and --decay-updates {cfg.decay_updates}"
                f" do not fit into --max-update {cfg.max_update}, at which the decay ends"
            )
        self._fall = SHAPES[str(cfg.decay_shape)]

    def step_begin_epoch(self, epoch: int) -> float:
        """Leave the rate as it is."""
        return self.optimizer.get_lr()

    def step_update(self, num_updates: int) -> float:
        """Set the rate of the update that follows ``num_updates`` others."""
        cfg = self.cfg
        share = min(1.0, (num_updates + 1) / max(1, cfg.warmup_updates))
        if cfg.decay_updates:
            done = (num_updates - cfg.max_update + cfg.decay_updates) / cfg.decay_updates
            share = min(share, self._fall(min(max(done, 0.0), 1.0)))
        self.optimizer.set_lr(cfg.lr[0] * share)
        return self.optimizer.get_lr()
