"""The masking rate over a training: constant, or on its way from one value to another.

Source: Ankner et al. 2024, "Dynamic Masking Rate Schedules for MLM Pretraining", 2305.15096: linear from 0.3
to 0.15; the step is that of pre-training in two phases.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fairseq_masking.errors import UserError

__all__ = ["MaskingRate", "RateSchedule"]

RateSchedule = Literal["linear", "cosine", "step"]


@dataclass(frozen=True)
class MaskingRate:
    """p(u) at an update, counted from 0.

    Raises:
        UserError: a value is outside its range.
    """

    start: float  # p at update 0
    end: float  # p from update ``updates`` on
    schedule: RateSchedule  # ``linear``; ``cosine``, half a period of it; ``step``, at ``updates`` / 2
    updates: int  # length of the run

    def __post_init__(self) -> None:
        if self.schedule not in get_args(RateSchedule):
            raise UserError(f"--mask-prob-schedule {self.schedule!r}: choose one of linear, cosine, step")
        if self.updates < 1:
            raise UserError("--mask-prob-end needs the length of the run: give --max-update")

    @property
    def highest(self) -> float:
        """The largest p of all updates."""
        return max(self.start, self.end)

    def at(self, update: int) -> float:
        """Return p at an update."""
        done = min(update / self.updates, 1.0)
        if self.schedule == "cosine":
            done = (1.0 - math.cos(math.pi * done)) / 2.0
        elif self.schedule == "step":
            done = float(done >= 0.5)
        return self.start + (self.end - self.start) * done
