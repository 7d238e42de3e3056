"""Masks of one fixed sequence under the two laws that the paper compares, and at a given Hamming distance.

Source: 2010.06040, Section 3.1 (M(tau)), Eq. 10 (the disjoint law M_FE(tau)), Section 3.3 (Fig. 2 and 3).
Deviation: the paper draws from all n tokens; here only the m maskable ones are drawn from, as in training.
Shapes: T tokens of a sequence, m maskable, k = tau masked positions, D draws, K masks of a draw, M masks.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskedItem, Masker, MaskingConfig, MaskingVocabulary, num_masked
from fairseq_masking.masking.corruption import corrupt, kinds_of
from fairseq_masking.masking.randomness import corruption_generator
from fairseq_masking.measure.gradient_variance.gradients import Masks

__all__ = ["count_masked", "disjoint_masks", "independent_masks", "masks_at_distance"]


def count_masked(
    tokens_T: npt.NDArray[np.int64], config: MaskingConfig, vocabulary: MaskingVocabulary
) -> tuple[int, int]:
    """Return tau, as K disjoint masks of the sequence have it, and m; tau is 0 where they do not fit."""
    num_maskable = int((~vocabulary.special[tokens_T[1:-1]]).sum())
    tau = num_masked(len(tokens_T) - 2, num_maskable, config.mask_prob, config.num_splits)
    return tau, num_maskable


def disjoint_masks(
    tokens_T: npt.NDArray[np.int64],
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    *,
    index: int,
    num_draws: int,
    first_epoch: int = 1,
) -> Masks:
    """Draw K disjoint masks ``num_draws`` times, as training does: draw d is epoch ``first_epoch + d``.

    Returns:
        D * K masks, the K of a draw next to each other.
    """
    masker = Masker(config, vocabulary)
    return _stack([_draw(masker, tokens_T, first_epoch + draw, index) for draw in range(num_draws)])


def independent_masks(
    tokens_T: npt.NDArray[np.int64],
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    *,
    index: int,
    num_masks: int,
    first_epoch: int = 1,
) -> Masks:
    """Draw ``num_masks`` independent masks, each of another epoch, with the tau of K disjoint ones.

    The rate is tau / n, so that tau stays the same also where floor(m / K) caps it.
    """
    tau, _ = count_masked(tokens_T, config, vocabulary)
    masker = Masker(replace(config, num_splits=1, mask_prob=tau / (len(tokens_T) - 2)), vocabulary)
    masks = _stack([_draw(masker, tokens_T, first_epoch + number, index) for number in range(num_masks)])
    assert masks.columns_Mk.shape[1] == tau
    return masks


def masks_at_distance(
    tokens_T: npt.NDArray[np.int64],
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    *,
    distance: int,
    num_pairs: int,
    index: int,
    first_epoch: int = 1,
) -> Masks:
    """Draw pairs of masks whose Hamming distance is ``distance``: each uniform, overlap tau - distance / 2.

    Args:
        config: rate, corruption and seed; ``unit`` and ``num_splits`` play no part.
        distance: even, between 0 and 2 tau; 2 tau is the disjoint law of Eq. 10.

    Returns:
        2 * ``num_pairs`` masks, the two of a pair next to each other.

    Raises:
        UserError: no two masks of tau positions are that far apart.
    """
    maskable_m = np.flatnonzero(~vocabulary.special[tokens_T[1:-1]]) + 1
    tau = num_masked(len(tokens_T) - 2, len(maskable_m), config.mask_prob)
    largest = 2 * min(tau, len(maskable_m) - tau)
    if distance % 2 or not 0 <= distance <= largest:
        raise UserError(
            f"Hamming distance {distance}: two masks of {tau} of {len(maskable_m)} tokens have an even one"
            f" from 0 to {largest}; lower --mask-prob or the distance"
        )
    moved = distance // 2
    kinds_k = kinds_of(tau, config.leave_unmasked_prob, config.random_token_prob)
    items = []
    for pair in range(num_pairs):
        epoch = first_epoch + pair
        # Its own stream, keyed like the masks': the distance keeps those of different distances apart.
        rng = np.random.default_rng((config.seed, epoch, index, distance, tau))
        order_m = rng.permutation(maskable_m)
        # The first tau are one mask; the other gives up `moved` of them for as many that follow.
        columns_2k = np.stack((order_m[:tau], order_m[moved : moved + tau]))
        generator_of = partial(corruption_generator, config.seed, epoch, index)
        columns_2k, replacements_2k = corrupt(tokens_T, columns_2k, kinds_k, vocabulary, generator_of)
        items.append(MaskedItem(columns_2k, kinds_k, replacements_2k))
    return _stack(items)


def _draw(masker: Masker, tokens_T: npt.NDArray[np.int64], epoch: int, index: int) -> MaskedItem:
    item = masker(tokens_T, epoch=epoch, index=index)
    if item is None:
        raise UserError(
            f"sequence {index} has fewer maskable tokens than the {masker.num_splits} masks: leave it out"
        )
    return item


def _stack(items: Sequence[MaskedItem]) -> Masks:
    return Masks(
        np.concatenate([item.columns for item in items]),
        items[0].kinds,
        np.concatenate([item.replacements for item in items]),
    )
