"""The masks of one item: which positions, and what stands there.

A pure function of (seed, epoch, index); NumPy only. Plain masking is K = 1 of the same rule.

Shapes: T tokens of an item with its outer <s> and </s>, m maskable tokens, K splits, k masked positions.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.errors import UserError
from fairseq_masking.masking.config import Floats, Ints, MaskingConfig, MaskingVocabulary
from fairseq_masking.masking.corruption import corrupt, kinds_of, num_masked
from fairseq_masking.masking.randomness import corruption_generator, position_generator
from fairseq_masking.masking.units import cut_splits, span_length_cdf, unit_starts

__all__ = ["MaskedItem", "Masker"]


class MaskedItem(NamedTuple):
    """The K masks of one item; in a split [MASK] comes first, then random, then unchanged, each ascending."""

    columns: Ints  # int64 [K, k], masked columns; no column is in two disjoint splits
    kinds: npt.NDArray[np.int8]  # int8 [k], values of ``Kind``, the same in every split
    replacements: Ints  # int64 [K, k], what to write there


class Masker:
    """Draws masks.

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
        """Masks that an item gets at once: K, or 1 of them an epoch."""
        return self.config.num_splits if self.config.splits_over == "batch" else 1

    def __call__(
        self,
        tokens_T: Ints,
        *,
        epoch: int,
        index: int,
        mask_prob: float | None = None,
        weights_V: Floats | None = None,
    ) -> MaskedItem | None:
        """Masks one item.

        Args:
            tokens_T: including the outer <s> and </s>, which are never chosen.
            epoch: of training, from 1; a fixed number for validation.
            mask_prob: a rate below the configuration's, whose masks are then cut short: a disjoint split stays
                disjoint from one that was drawn at another rate.
            weights_V: positive: tokens are masked in proportion to them, a unit to the mean of its tokens'.

        Returns:
            The masks, or None where fewer tokens can be masked than disjoint splits need: the item is to be skipped.
        """
        config = self.config
        maskable_m = np.flatnonzero(self._maskable[tokens_T[1:-1]]) + 1
        size = len(tokens_T) - 2, len(maskable_m)
        drawn = num_masked(*size, config.mask_prob, config.num_disjoint)
        if drawn == 0:
            return None
        k = drawn if mask_prob is None else min(drawn, num_masked(*size, mask_prob, config.num_disjoint))

        splits = range(config.num_splits)
        if config.splits_over == "epochs":
            # The epoch in which the K masks began, and which of them this one takes.
            split = (epoch - 1) // config.visit_epochs % config.num_splits
            epoch, splits = epoch - split * config.visit_epochs, range(split, split + 1)
        rng = position_generator(config.seed, epoch, index)
        draws = [
            self._disjoint(tokens_T, maskable_m, drawn, rng, weights_V)
            for _ in range(config.num_splits // config.num_disjoint)
        ]
        columns_Kk = np.concatenate(draws)[splits, :k]
        kinds_k = kinds_of(k, config.leave_unmasked_prob, config.random_token_prob)
        columns_Kk, replacements_Kk = corrupt(
            tokens_T,
            columns_Kk,
            kinds_k,
            self.vocabulary,
            lambda row: corruption_generator(config.seed, epoch, index, splits[row]),
        )
        return MaskedItem(columns_Kk, kinds_k, replacements_Kk)

    def _disjoint(
        self, tokens_T: Ints, maskable_m: Ints, num_masked: int, rng: np.random.Generator, weights_V: Floats | None
    ) -> Ints:
        """Columns of the masks that share a draw: K disjoint ones, or one."""
        starts_U = unit_starts(tokens_T, maskable_m, self.config, self.vocabulary, self._span_cdf, rng)
        weights_U = None
        if weights_V is not None:
            sums_U = np.add.reduceat(weights_V[tokens_T[maskable_m]], starts_U)
            weights_U = sums_U / np.diff(starts_U, append=len(maskable_m))
        num_splits = self.config.num_disjoint
        return maskable_m[cut_splits(starts_U, len(maskable_m), num_splits, num_masked, rng, weights_U)]
