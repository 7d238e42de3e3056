"""How many positions are masked, and what stands there: [MASK], a random token or the token itself.

Every count is exact (design decision 1) and depends on lengths alone, so that full blocks give static shapes.

Rounding is half up, ``floor(x + 0.5)``, of the product rounded to 9 decimals first. Binary floating point
puts some products a hair beside the half that they are in decimals (``0.15 * 510`` is 76.5 and rounds up,
``0.145 * 100`` is 14.499999999999998 and would round down without that step); 9 decimals are far finer than
any rate a person writes and far coarser than the error of one product.

Shapes: T tokens, K splits, k masked positions of a split.
"""

import math
from collections.abc import Callable
from enum import IntEnum
from functools import cache

import numpy as np
import numpy.typing as npt

from fairseq_masking.masking.config import Ints, MaskingVocabulary

__all__ = ["Kind", "corrupt", "corruption_counts", "kinds_of", "num_masked", "round_half_up"]


class Kind(IntEnum):
    """What stands at a masked position: the values of ``kinds``, wherever there are some."""

    MASK = 0
    RANDOM = 1
    UNCHANGED = 2


def round_half_up(value: float) -> int:
    """Rounds to the nearest integer, halves up, after removing the noise of binary fractions."""
    return math.floor(round(value, 9) + 0.5)


def num_masked(num_tokens: int, num_maskable: int, mask_prob: float, num_splits: int = 1) -> int:
    """The number of masked positions k (the paper's tau) in every one of K disjoint splits of a sequence.

    It is ``min(max(1, round(p * n)), floor(m / K))``; 0 where m < K, a sequence that is skipped.

    Args:
        num_tokens: n, tokens of the sequence without the outer <s> and </s>; separators inside count.
        num_maskable: m, those of them that are no special.
    """
    return min(max(1, round_half_up(mask_prob * num_tokens)), num_maskable // num_splits)


def corruption_counts(
    num_positions: int, leave_unmasked_prob: float, random_token_prob: float
) -> tuple[int, int, int]:
    """Divides k masked positions into [MASK], random token and unchanged: three counts in this order.

    Where nothing is to stay unchanged the rounding remainder becomes random tokens, and [MASK]s where there are none
    of those either.
    """
    num_mask = round_half_up((1.0 - leave_unmasked_prob - random_token_prob) * num_positions)
    rest = num_positions - num_mask
    if leave_unmasked_prob == 0.0:
        num_random = rest
    else:
        num_random = min(round_half_up(random_token_prob * num_positions), rest)
    return num_mask, num_random, rest - num_random


@cache  # items of one length share their counts
def kinds_of(num_masked: int, leave_unmasked_prob: float, random_token_prob: float) -> npt.NDArray[np.int8]:
    """The kinds of a split's positions in their order: read-only int8 [k], values of ``Kind``."""
    counts = corruption_counts(num_masked, leave_unmasked_prob, random_token_prob)
    kinds_k = np.repeat(np.array(Kind, dtype=np.int8), counts)
    kinds_k.flags.writeable = False
    return kinds_k


def corrupt(
    tokens_T: Ints,
    columns_Kk: Ints,
    kinds_k: npt.NDArray[np.int8],
    vocabulary: MaskingVocabulary,
    generator_of: Callable[[int], np.random.Generator],
) -> tuple[Ints, Ints]:
    """Assigns ``kinds_of`` and replacements to masked positions in any order, by a stream of its own in every split.

    Returns:
        columns [K, k], grouped by kind, ascending inside each group; replacements [K, k].
    """
    num_splits, num_masked = columns_Kk.shape
    num_mask = int(np.searchsorted(kinds_k, Kind.RANDOM))
    num_random = int(np.searchsorted(kinds_k, Kind.UNCHANGED)) - num_mask

    shuffled_kinds_Kk = np.empty((num_splits, num_masked), dtype=np.int8)
    drawn_Kr = np.empty((num_splits, num_random), dtype=np.int64)
    for split in range(num_splits):
        rng = generator_of(split)
        # A fresh permutation: the order in which the positions were drawn still shows the units.
        shuffled_kinds_Kk[split] = kinds_k[rng.permutation(num_masked)]
        drawn_Kr[split] = rng.integers(len(vocabulary.replacements), size=num_random)

    ascending_Kk = np.sort(columns_Kk, axis=1)
    by_kind_Kk = np.argsort(shuffled_kinds_Kk, axis=1, kind="stable")
    grouped_Kk = np.take_along_axis(ascending_Kk, by_kind_Kk, axis=1)

    replacements_Kk = tokens_T[grouped_Kk]
    replacements_Kk[:, :num_mask] = vocabulary.mask_index
    replacements_Kk[:, num_mask : num_mask + num_random] = vocabulary.replacements[drawn_Kr]
    return grouped_Kk, replacements_Kk
