"""What stands at the masked positions: [MASK], a random token or the token itself, in exact numbers.

Shapes: T tokens, K splits, k masked positions of a split.
"""

from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fairseq_masking.masking.counts import corruption_counts
from fairseq_masking.masking.vocabulary import MaskingVocabulary

__all__ = ["Kind", "SplitGenerators", "corrupt", "kinds_of"]


class Kind(IntEnum):
    """What stands at a masked position: the values of ``kinds``, wherever there are some."""

    MASK = 0
    RANDOM = 1
    UNCHANGED = 2


class SplitGenerators(Protocol):
    """Gives the stream of a split."""

    def __call__(self, split: int) -> np.random.Generator: ...


def kinds_of(num_masked: int, leave_unmasked_prob: float, random_token_prob: float) -> npt.NDArray[np.int8]:
    """The kinds of a split's positions in their order: int8 [k], values of ``Kind``."""
    counts = corruption_counts(num_masked, leave_unmasked_prob, random_token_prob)
    return np.repeat(np.array(Kind, dtype=np.int8), counts)


def corrupt(
    tokens_T: npt.NDArray[np.int64],
    columns_Kk: npt.NDArray[np.int64],
    kinds_k: npt.NDArray[np.int8],
    vocabulary: MaskingVocabulary,
    generator_of: SplitGenerators,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Assigns kinds and replacements to masked positions, independently in every split.

    Args:
        tokens_T: int64 [T], the clean text.
        columns_Kk: int64 [K, k], masked columns in any order.
        kinds_k: int8 [k] from ``kinds_of``.
        vocabulary: [MASK] and the ids of random tokens.
        generator_of: the stream of each split.

    Returns:
        columns int64 [K, k], grouped by kind, ascending inside each group; replacements int64 [K, k].
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
