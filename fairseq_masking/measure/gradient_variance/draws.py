"""Masks of one fixed sequence: independent, disjoint, at a given Hamming distance, from a law over positions.

Source: 2010.06040, Section 3.1 (M(tau)), Eq. 10 (the disjoint law M_FE(tau)), Section 3.3 (Fig. 2 and 3);
2008.05333, Section 3.3 (draws from a law, one after the other without replacement).
Deviation: the papers draw from all n tokens; here only the m maskable ones are drawn from, as in training.
Shapes: T tokens of a sequence, m maskable, k = tau masked positions, D draws, K masks of a draw, M masks.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairseq_masking.errors import UserError
from fairseq_masking.masking import Kind, MaskedItem, Masker, MaskingConfig, MaskingVocabulary, num_masked
from fairseq_masking.masking.corruption import corrupt, kinds_of
from fairseq_masking.masking.randomness import corruption_generator
from fairseq_masking.methods.map_net.sampling import gumbel_top_k

__all__ = [
    "DrawnMasks",
    "count_masked",
    "covering_masks",
    "disjoint_masks",
    "draw_masks",
    "independent_masks",
    "maskable_columns",
    "masks_at_distance",
]

Tokens = npt.NDArray[np.int64]
Columns = npt.NDArray[np.int64]


def maskable_columns(tokens_T: Tokens, vocabulary: MaskingVocabulary) -> Columns:
    """Return the m columns of a sequence that hold no special symbol, ascending."""
    return np.flatnonzero(~vocabulary.special[tokens_T[1:-1]]) + 1


def count_masked(tokens_T: Tokens, config: MaskingConfig, vocabulary: MaskingVocabulary) -> tuple[int, int]:
    """Return tau, as K disjoint masks of the sequence have it, and m; tau is 0 where they do not fit."""
    num_maskable = len(maskable_columns(tokens_T, vocabulary))
    return num_masked(len(tokens_T) - 2, num_maskable, config.mask_prob, config.num_splits), num_maskable


def disjoint_masks(
    tokens_T: Tokens,
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    *,
    index: int,
    num_draws: int,
    first_epoch: int = 1,
) -> MaskedItem:
    """Draw K disjoint masks ``num_draws`` times, as training does: draw d is epoch ``first_epoch + d``.

    Returns:
        D * K masks, the K of a draw next to each other.
    """
    masker = Masker(config, vocabulary)
    return _stack([_draw(masker, tokens_T, first_epoch + draw, index) for draw in range(num_draws)])


def independent_masks(
    tokens_T: Tokens,
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    *,
    index: int,
    num_masks: int,
    first_epoch: int = 1,
) -> MaskedItem:
    """Draw ``num_masks`` independent masks, each of another epoch, with the tau of K disjoint ones.

    The rate is tau / n, so that tau stays the same also where floor(m / K) caps it.
    """
    tau, _ = count_masked(tokens_T, config, vocabulary)
    plain = replace(config, num_splits=1, mask_prob=tau / (len(tokens_T) - 2))
    masks = disjoint_masks(
        tokens_T, plain, vocabulary, index=index, num_draws=num_masks, first_epoch=first_epoch
    )
    assert masks.columns.shape[1] == tau
    return masks


def masks_at_distance(
    tokens_T: Tokens,
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    *,
    distance: int,
    num_pairs: int,
    index: int,
    first_epoch: int = 1,
) -> MaskedItem:
    """Draw pairs of masks whose Hamming distance is ``distance``: each uniform, overlap tau - distance / 2.

    Args:
        config: rate, corruption and seed; ``unit`` and ``num_splits`` play no part.
        distance: even, between 0 and 2 tau; 2 tau is the disjoint law of Eq. 10.

    Returns:
        2 * ``num_pairs`` masks, the two of a pair next to each other.

    Raises:
        UserError: no two masks of tau positions are that far apart.
    """
    maskable_m = maskable_columns(tokens_T, vocabulary)
    tau = num_masked(len(tokens_T) - 2, len(maskable_m), config.mask_prob)
    largest = 2 * min(tau, len(maskable_m) - tau)
    if distance % 2 or not 0 <= distance <= largest:
        raise UserError(
            f"Hamming distance {distance}: two masks of {tau} of {len(maskable_m)} tokens have an even one"
            f" from 0 to {largest}; lower --mask-prob or the distance"
        )
    moved = distance // 2
    items = []
    for epoch in range(first_epoch, first_epoch + num_pairs):
        # Its own stream, keyed like the masks': the distance keeps those of different distances apart.
        rng = np.random.default_rng((config.seed, epoch, index, distance, tau))
        order_m = rng.permutation(maskable_m)
        # The first tau are one mask; the other gives up `moved` of them for as many that follow.
        columns_2k = np.stack((order_m[:tau], order_m[moved : moved + tau]))
        items.append(_corrupted(tokens_T, columns_2k, config, vocabulary, epoch, index))
    return _stack(items)


class DrawnMasks(NamedTuple):
    """``masks`` as the model takes them, and their int64 ``columns_Mk`` in the order of the draws."""

    masks: MaskedItem
    columns_Mk: Columns


def draw_masks(
    tokens_T: Tokens,
    log_p_T: npt.NDArray[np.float64],
    num_masked: int,
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    *,
    index: int,
    num_masks: int,
    stream: int,
) -> DrawnMasks:
    """Draw masks of a sequence from a law; corruption types go to positions at random, as in training.

    Args:
        log_p_T: of the law, see laws.py.
        config: corruption and seed.
        index: of the sequence.
        stream: of the random numbers: another one for each law.
    """
    words = np.random.SeedSequence((config.seed, index, stream, num_masked)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]) >> 2)
    columns_Mk = gumbel_top_k(torch.from_numpy(log_p_T).expand(num_masks, -1), num_masked, generator).numpy()
    # No stream that another law of this sequence has used.
    items = [
        _corrupted(tokens_T, columns_k[None], config, vocabulary, (stream << 32) + number, index)
        for number, columns_k in enumerate(columns_Mk)
    ]
    return DrawnMasks(_stack(items), columns_Mk)


def covering_masks(
    maskable_m: Columns, num_masked: int, mask_index: int, *, num_rounds: int, rng: np.random.Generator
) -> MaskedItem:
    """Draw uniform masks, all [MASK], that cover every position in each round.

    A round is a random order of the positions cut into masks; the last one is filled up from the beginning,
    so that each mask by itself is uniform over all masks of k positions.

    Args:
        num_masked: k, at most m.

    Returns:
        ``num_rounds`` times ceil(m / k) masks.
    """
    num_masks = -(-len(maskable_m) // num_masked)
    rounds = [np.resize(rng.permutation(maskable_m), (num_masks, num_masked)) for _ in range(num_rounds)]
    columns_Mk = np.concatenate(rounds)
    kinds_k = np.full(num_masked, Kind.MASK, dtype=np.int8)
    return MaskedItem(columns_Mk, kinds_k, np.full_like(columns_Mk, mask_index))


def _draw(masker: Masker, tokens_T: Tokens, epoch: int, index: int) -> MaskedItem:
    item = masker(tokens_T, epoch=epoch, index=index)
    if item is None:
        raise UserError(
            f"sequence {index} has fewer maskable tokens than the {masker.num_splits} masks: leave it out"
        )
    return item


def _corrupted(
    tokens_T: Tokens,
    columns_Kk: Columns,
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    epoch: int,
    index: int,
) -> MaskedItem:
    kinds_k = kinds_of(columns_Kk.shape[1], config.leave_unmasked_prob, config.random_token_prob)
    generator_of = partial(corruption_generator, config.seed, epoch, index)
    columns_Kk, replacements_Kk = corrupt(tokens_T, columns_Kk, kinds_k, vocabulary, generator_of)
    return MaskedItem(columns_Kk, kinds_k, replacements_Kk)


def _stack(items: Sequence[MaskedItem]) -> MaskedItem:
    columns, replacements = (
        np.concatenate(parts) for parts in zip(*((i.columns, i.replacements) for i in items), strict=True)
    )
    return MaskedItem(columns, items[0].kinds, replacements)
