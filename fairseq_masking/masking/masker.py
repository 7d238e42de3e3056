"""The masks of one item: which positions, and what stands there.

A pure function of (seed, epoch, index); NumPy only. Plain masking is K = 1 of the same rule.

Shapes: T tokens of an item with its outer <s> and </s>, m maskable tokens, K splits, k masked positions.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.errors import UserError
from fairseq_masking.masking.config import MaskingConfig, MaskingVocabulary
from fairseq_masking.masking.corruption import corrupt, kinds_of, num_masked
from fairseq_masking.masking.randomness import corruption_generator, position_generator
from fairseq_masking.masking.units import cut_splits, span_length_cdf, unit_starts

__all__ = ["MaskedItem", "Masker"]


class MaskedItem(NamedTuple):
    """The K masks of one item; in a split [MASK] comes first, then random, then unchanged, each ascending.

    Attributes:
        columns: int64 [K, k], masked columns; no column is in two splits.
        kinds: int8 [k], values of ``Kind``, the same in every split.
        replacements: int64 [K, k], what to write there.
    """

    columns: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int8]
    replacements: npt.NDArray[np.int64]


class Masker:
    """Draws masks.

    Args:
        config: rates, unit, splits and seed.
        vocabulary: specials, replacements and word beginnings.

    Raises:
        UserError: the unit needs word beginnings and the vocabulary has none.

    Example:
        >>> vocabulary = MaskingVocabulary.build(100, special_ids=range(4), mask_index=99)
        >>> item = Masker(MaskingConfig(num_splits=4), vocabulary)(tokens, epoch=1, index=0)
        >>> item.columns.shape
        (4, 77)
    """

    def __init__(self, config: MaskingConfig, vocabulary: MaskingVocabulary) -> None:
        if config.unit != "subword" and vocabulary.starts_word is None:
            raise UserError(
                f"--mask-unit {config.unit} needs a tokenizer that tells where words begin:"
                " use --mask-unit subword, or name the tokenizer with --bpe"
            )
        self.config = config
        self.vocabulary = vocabulary
        self._maskable = ~vocabulary.special
        self._span_cdf = span_length_cdf(config.span_geometric_p, config.span_max_length)

    @property
    def num_splits(self) -> int:
        """K."""
        return self.config.num_splits

    def __call__(self, tokens_T: npt.NDArray[np.int64], *, epoch: int, index: int) -> MaskedItem | None:
        """Masks one item.

        Args:
            tokens_T: int64 [T] including the outer <s> and </s>, which are never chosen.
            epoch: of training; a fixed number for validation.
            index: of the item in its dataset.

        Returns:
            The K masks, or None where fewer than K tokens can be masked: the item is to be skipped.
        """
        config = self.config
        maskable_m = np.flatnonzero(self._maskable[tokens_T[1:-1]]) + 1
        k = num_masked(len(tokens_T) - 2, len(maskable_m), config.mask_prob, config.num_splits)
        if k == 0:
            return None

        rng = position_generator(config.seed, epoch, index)
        starts_U = unit_starts(tokens_T, maskable_m, config, self.vocabulary, self._span_cdf, rng)
        columns_Kk = maskable_m[cut_splits(starts_U, len(maskable_m), config.num_splits, k, rng)]
        kinds_k = kinds_of(k, config.leave_unmasked_prob, config.random_token_prob)
        generator_of = partial(corruption_generator, config.seed, epoch, index)
        columns_Kk, replacements_Kk = corrupt(tokens_T, columns_Kk, kinds_k, self.vocabulary, generator_of)
        return MaskedItem(columns_Kk, kinds_k, replacements_Kk)
