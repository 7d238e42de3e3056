"""Splits that are independent or an epoch each, rates that change, tokens with weights: each against a naive one."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.masking import Masker, MaskingConfig, MaskingRate

UNITS = ["subword", "whole_word", "span"]


def columns_of(item) -> list[list[int]]:
    return [sorted(row) for row in item.columns.tolist()]


def same(left, right) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("unit", UNITS)
def test_independent_splits_begin_with_the_plain_mask(unit, vocabulary, random_sequence) -> None:
    tokens = random_sequence(60, 1)
    plain = Masker(MaskingConfig(unit=unit), vocabulary)(tokens, epoch=3, index=5)
    several = Masker(MaskingConfig(unit=unit, num_splits=8, splits_law="independent"), vocabulary)
    item = several(tokens, epoch=3, index=5)  # 8 x 0.15 would not fit if they were disjoint
    assert item.columns.shape == (8, plain.columns.shape[1])
    assert same(plain, [item.columns[:1], item.kinds, item.replacements[:1]])
    assert len({tuple(row) for row in columns_of(item)}) > 1
    assert several(np.array([0, 10, 2]), epoch=1, index=0) is not None, "a token is enough"


def test_independent_splits_are_independent(vocabulary, chi_square_limit) -> None:
    """The joint law of two masks of 2 of 5 tokens: all 100 pairs alike. Disjoint ones have only 30 of them."""
    tokens = np.array([0, 10, 12, 14, 16, 18, 2])
    masker = Masker(MaskingConfig(mask_prob=0.4, num_splits=2, splits_law="independent"), vocabulary)
    draws = 3000
    counts = Counter(
        tuple(map(tuple, columns_of(masker(tokens, epoch=epoch, index=0)))) for epoch in range(1, draws + 1)
    )
    sets = list(itertools.combinations(range(1, 6), 2))
    statistic = sum((counts[pair] - draws / 100) ** 2 / (draws / 100) for pair in itertools.product(sets, sets))
    assert statistic < chi_square_limit(99)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("visit_epochs", [1, 3])
def test_splits_over_epochs_are_the_splits_of_a_batch(unit, visit_epochs, vocabulary, random_sequence) -> None:
    """Epoch after epoch one of them, corruption included; folders of text that take turns have cycles of their own."""
    tokens = random_sequence(48, 2)
    options = {"unit": unit, "mask_prob": 0.25, "num_splits": 4}
    together = Masker(MaskingConfig(**options), vocabulary)
    spread = Masker(MaskingConfig(**options, splits_over="epochs", visit_epochs=visit_epochs), vocabulary)
    assert spread.num_splits == 1
    for first in [folder + 4 * visit_epochs * cycle for cycle in range(2) for folder in range(1, visit_epochs + 1)]:
        expected = together(tokens, epoch=first, index=9)
        for split in range(4):
            item = spread(tokens, epoch=first + split * visit_epochs, index=9)
            rows = slice(split, split + 1)
            assert same(item, [expected.columns[rows], expected.kinds, expected.replacements[rows]])


def test_over_epochs_every_token_is_predicted_equally_often(vocabulary, random_sequence) -> None:
    tokens = np.array([0, *range(4, 44), 2])
    masker = Masker(MaskingConfig(mask_prob=0.125, num_splits=8, splits_over="epochs"), vocabulary)
    counts = Counter(
        column for epoch in range(1, 25) for column in masker(tokens, epoch=epoch, index=0).columns[0].tolist()
    )
    assert counts == dict.fromkeys(range(1, 41), 3)


@pytest.mark.parametrize("unit", UNITS)
def test_a_lower_rate_is_the_plain_mask_of_that_rate(unit, vocabulary, random_sequence) -> None:
    tokens = random_sequence(60, 3)
    masker = Masker(MaskingConfig(unit=unit, mask_prob=0.4), vocabulary)
    for prob in (0.4, 0.3, 0.15, 0.01):
        plain = Masker(MaskingConfig(unit=unit, mask_prob=prob), vocabulary)(tokens, epoch=2, index=4)
        assert same(masker(tokens, epoch=2, index=4, mask_prob=prob), plain)


@pytest.mark.parametrize("unit", UNITS)
def test_splits_stay_disjoint_while_the_rate_falls(unit, vocabulary, random_sequence) -> None:
    tokens = random_sequence(80, 4)
    masker = Masker(MaskingConfig(unit=unit, mask_prob=0.25, num_splits=4, splits_over="epochs"), vocabulary)
    items = [
        masker(tokens, epoch=epoch, index=0, mask_prob=prob) for epoch, prob in enumerate((0.25, 0.2, 0.1, 0.05), 1)
    ]
    assert [item.columns.shape[1] for item in items] == [min(round(0.25 * 80), len(masked(tokens)) // 4), 16, 8, 4]
    columns = [column for item in items for column in item.columns[0].tolist()]
    assert len(set(columns)) == len(columns)


def masked(tokens: np.ndarray) -> list[int]:
    return [token for token in tokens[1:-1] if token > 3]


def test_weighted_tokens_follow_draws_one_after_the_other(vocabulary, chi_square_limit) -> None:
    """Two of four tokens, without replacement: P(a, b) = w_a / W * w_b / (W - w_a) + the same with b first."""
    tokens, weights_V = np.array([0, 10, 12, 14, 16, 2]), np.ones(64)
    weights_V[tokens[1:-1]] = weights = np.array([1.0, 2.0, 3.0, 6.0])
    masker, draws = Masker(MaskingConfig(mask_prob=0.5), vocabulary), 2000
    counts = Counter(
        tuple(columns_of(masker(tokens, epoch=epoch, index=0, weights_V=weights_V))[0]) for epoch in range(draws)
    )
    total, statistic = weights.sum(), 0.0
    for pair in itertools.combinations(range(4), 2):
        prob = sum(weights[a] / total * weights[b] / (total - weights[a]) for a, b in (pair, pair[::-1]))
        statistic += (counts[pair[0] + 1, pair[1] + 1] - prob * draws) ** 2 / (prob * draws)
    assert statistic < chi_square_limit(5)


def test_a_weighted_unit_counts_by_the_mean_of_its_tokens(vocabulary, words, chi_square_limit) -> None:
    """The first of a word of weight (6 + 0.5 + 0.5 + 1) / 4 = 2 and three words of weight 1."""
    tokens, weights_V = words(4, 1, 1, 1), np.ones(64)
    tokens[2:5] = [5, 7, 9]
    weights_V[tokens[1:5]] = [6.0, 0.5, 0.5, 1.0]
    masker, draws = Masker(MaskingConfig(mask_prob=0.14, unit="whole_word"), vocabulary), 1000
    first = [masker(tokens, epoch=e, index=0, weights_V=weights_V).columns[0, 0] for e in range(draws)]
    observed = np.bincount(np.clip(first, 4, 7) - 4, minlength=4)
    expected = draws * np.array([2, 1, 1, 1]) / 5
    assert ((observed - expected) ** 2 / expected).sum() < chi_square_limit(3)


def test_rates_by_hand() -> None:
    assert [MaskingRate(0.3, 0.1, "linear", 10).at(u) for u in (0, 5, 10, 99)] == pytest.approx([0.3, 0.2, 0.1, 0.1])
    cosine = MaskingRate(0.3, 0.1, "cosine", 12)
    assert cosine.at(4) == pytest.approx(0.1 + 0.2 * (1 + math.cos(math.pi / 3)) / 2)
    assert [MaskingRate(0.1, 0.3, "step", 10).at(u) for u in (0, 4, 5, 9)] == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert MaskingRate(0.1, 0.3, "step", 10).highest == 0.3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MaskingRate(0.3, 0.1, "linear", 0), "give --max-update"),
        (lambda: MaskingRate(0.3, 0.1, "jump", 10), "choose one of linear, cosine, step"),
        (lambda: MaskingConfig(splits_law="same"), "--mask-splits-law 'same': choose one of disjoint, independent"),
        (lambda: MaskingConfig(splits_over="epochs"), "--mask-splits 2 or more"),
        (lambda: MaskingConfig(num_splits=2, splits_over="epochs", splits_law="independent"), "plain masking"),
    ],
)
def test_wrong_laws_are_one_clear_line(build, message) -> None:
    with pytest.raises(UserError, match=message):
        build()
