"""When MAP-Net explores: masks are uniform with probability q(t), and the proposal network's otherwise.

Source: 2008.05333, Section 4.1.1, "from 100% at the beginning of training to 33% at 1000k steps".
"""

import math
from dataclasses import dataclass

import numpy as np

from fairseq_masking.errors import UserError

__all__ = ["EXPLORE_UNITS", "Exploration"]

EXPLORE_UNITS = ("sentence", "batch")

_COIN = 0x636F696E  # sets this stream apart from any other SeedSequence((seed, update))


@dataclass(frozen=True)
class Exploration:
    """The schedule q(t): linear from ``start`` at update 0 to ``end`` at update ``updates``, then constant.

    Attributes:
        start: q at update 0.
        end: q from update ``updates`` on.
        updates: length of the descent.
        unit: what a coin decides for: each sentence (the coins are then drawn on the device), or the batch.

    Raises:
        UserError: a value outside of its range.
    """

    start: float = 1.0
    end: float = 0.33
    updates: int = 1_000_000
    unit: str = "sentence"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UserError(f"--explore-{name} {value}: a probability, from 0 to 1")
        if self.end > self.start:
            raise UserError(
                f"--explore-end {self.end} is above --explore-start {self.start}: exploration falls during"
                " training; for a constant share give both the same value"
            )
        if self.updates < 1:
            raise UserError(
                f"--explore-updates {self.updates}: at least 1, the number of updates over which exploration falls"
            )
        if self.unit not in EXPLORE_UNITS:
            raise UserError(f"--explore-unit {self.unit}: choose one of {', '.join(EXPLORE_UNITS)}")

    def probability(self, update: int) -> float:
        """Return q at an update, counted from 0."""
        return self.start + (self.end - self.start) * min(update / self.updates, 1.0)

    def probability_for_batch(self, seed: int, update: int) -> float:
        """Return q for the sentences of a batch: q(t) itself, or 0 or 1 where one coin decides for all.

        That coin depends on (seed, update) alone, so that all ranks and micro-batches agree.
        """
        probability = self.probability(update)
        if self.unit == "sentence":
            return probability
        words = np.random.SeedSequence((_COIN, seed, update)).generate_state(1, np.uint64)
        return 1.0 if math.ldexp(int(words[0]), -64) < probability else 0.0
