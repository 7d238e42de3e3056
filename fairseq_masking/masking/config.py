"""What a masker is built from, checked where it is put together: options, rates, a vocabulary as plain arrays.

The task builds the arrays from the dictionary and the tokeniser; masking itself reads no files.
Shapes: V symbols, R of them replacements.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fairseq_masking.errors import PREPARE_AGAIN, UserError

__all__ = [
    "Floats", "Ints", "MaskUnit", "MaskingConfig", "MaskingRate", "MaskingVocabulary", "RateSchedule", "SplitsLaw",
    "SplitsOver",
]  # fmt: skip

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MaskUnit = Literal["subword", "whole_word", "span", "pmi"]
SplitsLaw = Literal["disjoint", "independent"]
SplitsOver = Literal["batch", "epochs"]
RateSchedule = Literal["linear", "cosine", "step"]


@dataclass(frozen=True)
class MaskingConfig:
    """What the sampler needs to know; the names on the command line are in each field's message."""

    mask_prob: float = 0.15  # share of a sequence's tokens that one split masks
    leave_unmasked_prob: float = 0.1  # share of the masked positions whose token stays
    random_token_prob: float = 0.1  # share of the masked positions that get a random token
    unit: MaskUnit = "subword"  # what is drawn as a whole
    span_geometric_p: float = 0.2  # p of the geometric law of span lengths, in words
    span_max_length: int = 10  # longest span, in words
    num_splits: int = 1  # K masks per sequence
    splits_law: SplitsLaw = "disjoint"  # whether they are disjoint, or independent of each other
    # whether a sequence has its K masks in one batch, or one a visit in K visits that follow each other
    splits_over: SplitsOver = "batch"
    visit_epochs: int = 1  # epochs from one visit of a sequence to the next: folders of text that take turns
    seed: int = 1  # of every mask; masks are pure in (seed, epoch, index, split)

    @property
    def num_disjoint(self) -> int:
        """How many disjoint masks must fit into a sequence."""
        return self.num_splits if self.splits_law == "disjoint" else 1

    def __post_init__(self) -> None:
        # `not (a < x <= b)` instead of the opposite comparisons: it refuses NaN as well.
        for option, example in (("mask_prob", 0.15), ("span_geometric_p", 0.2)):
            if not 0.0 < (value := getattr(self, option)) <= 1.0:
                given = f"--{option.replace('_', '-')} {value}"
                raise UserError(f"{given}: must be above 0 and at most 1, for example {example}")
        for option in ("leave_unmasked_prob", "random_token_prob"):
            value = getattr(self, option)
            if not 0.0 <= value <= 1.0:
                raise UserError(f"--{option.replace('_', '-')} {value}: must be between 0 and 1")
        if self.leave_unmasked_prob + self.random_token_prob > 1.0 + 1e-9:
            raise UserError(
                f"--leave-unmasked-prob {self.leave_unmasked_prob} and --random-token-prob"
                f" {self.random_token_prob} exceed 1 together: lower one of them"
            )
        if self.num_splits < 1:
            raise UserError(f"--mask-splits {self.num_splits}: must be at least 1")
        for option, choices in (("unit", MaskUnit), ("splits_law", SplitsLaw), ("splits_over", SplitsOver)):
            if (value := getattr(self, option)) not in get_args(choices):
                given = f"--mask-{option.replace('_', '-')} {value!r}"
                raise UserError(f"{given}: choose one of {', '.join(get_args(choices))}")
        if self.splits_over == "epochs" and (self.splits_law != "disjoint" or self.num_splits < 2):
            raise UserError(
                "--mask-splits-over epochs spreads --mask-splits 2 or more of --mask-splits-law disjoint; independent"
                " masks of an epoch each are plain masking: leave the three options out"
            )
        if round(self.num_disjoint * self.mask_prob, 9) > 1.0:
            raise UserError(
                f"--mask-splits {self.num_splits} times --mask-prob {self.mask_prob} is"
                f" {self.num_splits * self.mask_prob:.4g}, but disjoint masks can cover a sequence only once: use at"
                f" most --mask-splits {int(1.0 / self.mask_prob + 1e-9)} or --mask-prob {1.0 / self.num_splits:.4g}"
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed}: must be 0 or more and below 2**63")


@dataclass(frozen=True)
class MaskingRate:
    """p(u) at an update, counted from 0: constant, or on its way from one value to another.

    Source: Ankner et al. 2024, "Dynamic Masking Rate Schedules for MLM Pretraining", 2305.15096: linear from 0.3
    to 0.15; the step is that of pre-training in two phases.
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


@dataclass(frozen=True, eq=False)
class MaskingVocabulary:
    """The arrays that a ``Masker`` looks tokens up in."""

    mask_index: int  # id of [MASK]
    # bool [V], symbols that are never chosen and never drawn: <s>, <pad>, </s>, <unk>, <mask>
    special: npt.NDArray[np.bool_]
    replacements: Ints  # int64 [R], the ids from which random tokens are drawn uniformly
    # bool [V], whether a word begins with the symbol; None if only subwords are masked
    starts_word: npt.NDArray[np.bool_] | None = None
    # n-grams of words that are masked as a whole, the bytes of their tokens in int64
    collocations: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        assert self.special.dtype == np.bool_ and self.special.ndim == 1
        assert self.special[self.mask_index], "[MASK] must be a special symbol"
        assert self.replacements.dtype == np.int64
        assert self.starts_word is None or self.starts_word.shape == self.special.shape
        if len(self.replacements) == 0:
            raise UserError(f"the dictionary has {len(self.special)} symbols and all are special: {PREPARE_AGAIN}")
        assert not self.special[self.replacements].any(), "a special symbol must never be drawn"

    @classmethod
    def build(
        cls,
        num_symbols: int,
        special_ids: Iterable[int],
        mask_index: int,
        *,
        starts_word: npt.NDArray[np.bool_] | None = None,
        never_drawn: Iterable[int] = (),
        collocations: frozenset[bytes] = frozenset(),
    ) -> "MaskingVocabulary":
        """Builds the arrays from ids; ``mask_index`` is special, too.

        ``never_drawn`` are ordinary ids that are still no replacement, such as fairseq's madeupword padding.
        """
        special = np.zeros(num_symbols, dtype=np.bool_)
        special[[*special_ids, mask_index]] = True
        drawn = ~special
        drawn[list(never_drawn)] = False
        return cls(
            mask_index=int(mask_index),
            special=special,
            replacements=np.flatnonzero(drawn).astype(np.int64),
            starts_word=starts_word,
            collocations=collocations,
        )
