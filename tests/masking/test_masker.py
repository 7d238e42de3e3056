"""Exact invariants of every mask, and the laws of what is random."""

import itertools
import pickle
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import numpy as np
import pytest

from fairseq_masking.masking import Masker, MaskingConfig, MaskingVocabulary

UNITS = ["subword", "whole_word", "span"]


def rounded(prob: float, n: int) -> int:
    return int((Decimal(str(prob)) * n + Decimal("0.5")).to_integral_value(rounding=ROUND_FLOOR))


def check_item(tokens: np.ndarray, masker: Masker, epoch: int, index: int) -> None:
    """Every invariant of one item, in plain loops."""
    config, vocabulary = masker.config, masker.vocabulary
    n = len(tokens) - 2
    maskable = [i for i in range(1, n + 1) if not vocabulary.special[tokens[i]]]
    item = masker(tokens, epoch=epoch, index=index)
    if len(maskable) < config.num_splits:
        assert item is None
        return
    assert item is not None
    k = min(max(1, rounded(config.mask_prob, n)), len(maskable) // config.num_splits)
    num_mask = rounded(round(1 - config.leave_unmasked_prob - config.random_token_prob, 9), k)
    num_random = min(rounded(config.random_token_prob, k), k - num_mask)
    if config.leave_unmasked_prob == 0:
        num_random = k - num_mask
    kinds = [0] * num_mask + [1] * num_random + [2] * (k - num_mask - num_random)

    assert item.columns.shape == item.replacements.shape == (config.num_splits, k)
    assert (item.columns.dtype, item.kinds.dtype, item.replacements.dtype) == (np.int64, np.int8, np.int64)
    assert item.kinds.tolist() == kinds
    columns = item.columns.ravel().tolist()
    assert len(set(columns)) == config.num_splits * k, "disjoint, and no position twice"
    assert set(columns) <= set(maskable), "never a special"
    for row, written in zip(item.columns.tolist(), item.replacements.tolist(), strict=True):
        for left, right, kind, next_kind in zip(row, row[1:], kinds, kinds[1:], strict=False):
            assert kind != next_kind or left < right, "ascending inside a kind"
        for column, kind, token in zip(row, kinds, written, strict=True):
            if kind == 0:
                assert token == vocabulary.mask_index
            elif kind == 1:
                assert not vocabulary.special[token]
            else:
                assert token == tokens[column]


@pytest.mark.parametrize("unit", UNITS)
def test_invariants_for_every_small_length(unit: Any, vocabulary, random_sequence) -> None:
    for num_splits, n in itertools.product(range(1, 9), range(1, 41)):
        config = MaskingConfig(unit=unit, num_splits=num_splits, mask_prob=0.125, seed=n)
        masker = Masker(config, vocabulary)
        for index in range(2):
            check_item(random_sequence(n, 10 * n + index), masker, epoch=1, index=index)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "options",
    [
        {"num_splits": 8, "mask_prob": 0.125},  # 64 are asked for, 63 fit
        {"num_splits": 4, "mask_prob": 0.25},
        {"num_splits": 1, "mask_prob": 1.0},
        {"num_splits": 4, "leave_unmasked_prob": 0.0, "random_token_prob": 0.0},
        {"num_splits": 4, "leave_unmasked_prob": 0.0, "random_token_prob": 0.3},
        {"num_splits": 2, "leave_unmasked_prob": 0.3, "random_token_prob": 0.0},
        {"num_splits": 2, "leave_unmasked_prob": 1.0, "random_token_prob": 0.0},
    ],
)
def test_invariants_of_full_blocks(unit: Any, options: dict, vocabulary, random_sequence) -> None:
    masker = Masker(MaskingConfig(unit=unit, **options), vocabulary)
    full = random_sequence(510, 0)
    full[full == 2] = 10
    full[-1] = 2
    for index in range(5):
        check_item(full, masker, epoch=1, index=index)
        check_item(random_sequence(510, index), masker, epoch=1, index=index)


def test_the_papers_own_ablation_row(vocabulary) -> None:
    """n = 510, K = 8, 12.5%: 8 * 64 = 512 do not fit, so 63 each, and 6 tokens are in no split."""
    tokens = np.array([0, *[10] * 510, 2])
    item = Masker(MaskingConfig(num_splits=8, mask_prob=0.125), vocabulary)(tokens, epoch=1, index=0)
    assert item is not None and item.columns.shape == (8, 63)
    assert len(np.unique(item.columns)) == 504


def test_short_items_are_skipped(vocabulary) -> None:
    masker = Masker(MaskingConfig(num_splits=4), vocabulary)
    assert masker(np.array([0, 10, 10, 10, 2, 2]), epoch=1, index=0) is None
    assert masker(np.array([0, 2]), epoch=1, index=0) is None
    item = masker(np.array([0, 10, 10, 10, 10, 2]), epoch=1, index=0)
    assert item is not None and sorted(item.columns.ravel()) == [1, 2, 3, 4]


# Word lengths: tau is 6 to 8 here, so some words are longer; -5 is a word that began before the block.
MARGINAL_CASES = {
    "long words": (-5, 12, 1, 3, 0, 1, 9, 2, 0, 0, 1, 14, 1),
    "short words": (1, 2, 1, 0, 3, 1, 1, 2, 1, 1, 0, 4, 2, 1, 1, 2, 3, 1, 1, 2, 1, 1, 2, 1, 3, 2),
    "one word": (45,),
}


# any two of these values meet in a case
@pytest.mark.parametrize(
    ("case", "num_splits", "unit"),
    [
        (case, (1, 4)[(row + column) % 2], unit)
        for row, unit in enumerate(UNITS)
        for column, case in enumerate(MARGINAL_CASES)
    ],
)
def test_every_position_is_in_every_split_equally_often(
    case: str, num_splits: int, unit: Any, vocabulary, words, chi_square_limit
) -> None:
    """Chi-square over all positions of each split, and a bound on each single one.

    Tokens of one word come together, so the statistic takes their covariance into account (Hotelling):
    it is chi-square with as many degrees of freedom as the covariance has rank.
    """
    tokens = words(*MARGINAL_CASES[case])
    masker = Masker(MaskingConfig(unit=unit, num_splits=num_splits, seed=3), vocabulary)
    maskable = np.flatnonzero(~vocabulary.special[tokens])
    draws = 3000
    chosen = np.zeros((draws, num_splits, len(tokens)))
    for epoch in range(draws):
        columns = masker(tokens, epoch=epoch, index=7).columns
        np.put_along_axis(chosen[epoch], columns, 1.0, axis=1)
    tau = columns.shape[1]
    assert chosen.sum() == chosen[:, :, maskable].sum() == draws * num_splits * tau
    prob = tau / len(maskable)
    for split in range(num_splits):
        sample = chosen[:, split, maskable]
        deviation = sample.mean(axis=0) - prob
        spread = np.linalg.eigvalsh(np.cov(sample, rowvar=False))
        rank = int((spread > 1e-8).sum())
        statistic = draws * deviation @ np.linalg.pinv(np.cov(sample, rowvar=False), rcond=1e-8) @ deviation
        assert statistic < chi_square_limit(rank), (split, statistic, rank)
        assert np.abs(deviation).max() < 4.5 * np.sqrt(prob * (1 - prob) / draws)


def test_random_tokens_are_uniform_over_the_vocabulary(vocabulary, random_sequence, chi_square_limit) -> None:
    config = MaskingConfig(mask_prob=0.25, num_splits=4, leave_unmasked_prob=0.0, random_token_prob=1.0)
    masker = Masker(config, vocabulary)
    tokens = random_sequence(510, 0)
    counts = np.zeros((4, len(vocabulary.special)))
    for epoch in range(300):
        for split, drawn in enumerate(masker(tokens, epoch=epoch, index=0).replacements):
            counts[split] += np.bincount(drawn, minlength=len(vocabulary.special))
    assert counts[:, vocabulary.special].sum() == 0
    for split in range(4):
        observed = counts[split, ~vocabulary.special]
        expected = observed.sum() / len(observed)
        assert ((observed - expected) ** 2 / expected).sum() < chi_square_limit(len(observed) - 1)


def test_symbols_that_are_never_drawn(random_sequence) -> None:
    vocabulary = MaskingVocabulary.build(64, range(4), 63, never_drawn=[4, 5, 62])
    masker = Masker(MaskingConfig(leave_unmasked_prob=0.0, random_token_prob=1.0), vocabulary)
    drawn = np.concatenate([masker(random_sequence(510, 0), epoch=e, index=0).replacements.ravel() for e in range(50)])
    assert not np.isin(drawn, [4, 5, 62]).any()
    assert {6, 61} <= set(drawn)


@pytest.mark.parametrize("unit", ["subword", "whole_word"])
def test_kinds_do_not_follow_the_units(unit: Any, vocabulary, words, chi_square_limit) -> None:
    """Which of a split's positions get which kind is uniform, and independent of their words."""
    tokens = words(*[2] * 40)
    masker = Masker(MaskingConfig(unit=unit, mask_prob=0.25, seed=5), vocabulary)
    draws = 4000
    by_rank = np.zeros((3, 20))
    together = pairs = 0
    for epoch in range(draws):
        item = masker(tokens, epoch=epoch, index=0)
        row = item.columns[0]
        ranks = np.argsort(np.argsort(row))
        np.add.at(by_rank, (item.kinds, ranks), 1)
        kind_at = dict(zip(row.tolist(), item.kinds.tolist(), strict=True))
        for first in range(1, 80, 2):
            if first in kind_at and first + 1 in kind_at:
                pairs += 1
                together += kind_at[first] == kind_at[first + 1] == 0
    for kind, count in enumerate((16, 2, 2)):
        expected = draws * count / 20
        # Fixed totals shrink the variance by 1 - share; the statistic is scaled back.
        scale = 1 - count / 20
        assert ((by_rank[kind] - expected) ** 2 / expected).sum() / scale < chi_square_limit(19)
    prob = 16 * 15 / (20 * 19)
    assert pairs > 500
    assert abs(together / pairs - prob) < 4.5 * np.sqrt(prob * (1 - prob) / pairs)


def test_splits_are_corrupted_independently(vocabulary) -> None:
    """The patterns of kinds, and the random tokens, of two splits agree as often as chance has it."""
    tokens = np.array([0, *[10] * 80, 2])
    masker = Masker(MaskingConfig(num_splits=4, mask_prob=0.25, leave_unmasked_prob=0.0), vocabulary)
    draws = 1500
    same_token, agreement, pairs = 0, 0.0, 0
    for epoch in range(draws):
        item = masker(tokens, epoch=epoch, index=0)
        is_random = np.zeros((4, 20), dtype=bool)
        for split in range(4):
            ranks = np.argsort(np.argsort(item.columns[split]))
            is_random[split, ranks[item.kinds == 1]] = True
        for left, right in itertools.combinations(range(4), 2):
            pairs += 1
            agreement += (is_random[left] & is_random[right]).sum()
            same_token += item.replacements[left, -1] == item.replacements[right, -1]
    # Two random tokens of 20 positions in each split: 2 * 2 / 20 expected in common.
    assert abs(agreement / pairs - 0.2) < 4.5 * np.sqrt(0.2 / pairs)
    prob = 1 / len(vocabulary.replacements)
    assert abs(same_token / pairs - prob) < 4.5 * np.sqrt(prob / pairs)


@pytest.mark.parametrize("unit", UNITS)
def test_masks_are_pure(unit: Any, vocabulary, random_sequence) -> None:
    """The same whatever was drawn before, in whatever order, from whichever copy; nothing global is read."""
    config = MaskingConfig(unit=unit, num_splits=3, seed=11)
    tokens = random_sequence(100, 1)
    wanted = list(itertools.product((1, 2, 5), (0, 1, 2**33)))
    masker = Masker(config, vocabulary)
    first = {key: masker(tokens, epoch=key[0], index=key[1]) for key in wanted}
    np.random.seed(123)
    state = np.random.get_state()[1].copy()
    masker(random_sequence(37, 2), epoch=9, index=9)
    for copy in (masker, Masker(config, vocabulary), pickle.loads(pickle.dumps(masker))):
        for epoch, index in reversed(wanted):
            again = copy(tokens, epoch=epoch, index=index)
            for left, right in zip(first[epoch, index], again, strict=True):
                np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_seed_epoch_index_and_split_all_matter(vocabulary) -> None:
    tokens = np.array([0, *[10, 11, 12] * 100, 2])
    seen: set[tuple[int, ...]] = set()
    for seed, epoch, index in itertools.product((0, 1, 2), (0, 1, 2), (0, 1, 2)):
        item = Masker(MaskingConfig(seed=seed, num_splits=4), vocabulary)(tokens, epoch=epoch, index=index)
        seen |= {tuple(row) for row in item.columns.tolist()}
    assert len(seen) == 27 * 4


def test_tokens_stay_as_they_are(vocabulary, random_sequence) -> None:
    tokens = random_sequence(200, 4)
    before = tokens.copy()
    tokens.flags.writeable = False
    Masker(MaskingConfig(num_splits=2), vocabulary)(tokens, epoch=1, index=0)
    np.testing.assert_array_equal(tokens, before)
