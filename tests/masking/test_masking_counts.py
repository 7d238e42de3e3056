"""Counts of decision 1 against exact decimal arithmetic and by hand."""

from decimal import ROUND_FLOOR, Decimal

import pytest

from fairseq_masking.masking import corruption_counts, num_masked


def round_exactly(*factors: object) -> int:
    """floor(product + 0.5) of the decimal numbers as they are written."""
    product = Decimal(1)
    for factor in factors:
        product *= Decimal(str(factor))
    return int((product + Decimal("0.5")).to_integral_value(rounding=ROUND_FLOOR))


@pytest.mark.parametrize("prob", [0.01, 0.125, 0.145, 0.15, 0.25, 0.285, 0.3, 0.4, 0.5, 0.575, 1.0])
def test_num_masked_equals_exact_arithmetic(prob: float) -> None:
    for n in range(1, 600):
        for num_splits in range(1, int(1 / prob) + 1):
            for m in {n, n - 1, n // 2, num_splits, num_splits - 1, 0} - {-1}:
                expected = min(max(1, round_exactly(prob, n)), m // num_splits)
                assert num_masked(n, m, prob, num_splits) == expected, (n, m, num_splits)


@pytest.mark.parametrize(
    ("n", "m", "prob", "num_splits", "expected"),
    [
        (510, 510, 0.15, 1, 77),  # 76.5 rounds up
        (510, 510, 0.125, 8, 63),  # 63.75 rounds to 64, but 8 * 64 = 512 do not fit
        (510, 504, 0.125, 8, 63),
        (510, 503, 0.125, 8, 62),
        (510, 480, 0.15, 4, 77),
        (100, 100, 0.145, 1, 15),  # 14.5, in binary 14.499999999999998
        (126, 126, 0.15, 1, 19),  # 18.9
        (1, 1, 0.15, 1, 1),  # at least one
        (8, 8, 0.125, 8, 1),
        (8, 7, 0.125, 8, 0),  # m < K: skipped
        (1, 0, 0.15, 1, 0),
        (0, 0, 0.15, 1, 0),
        (510, 20, 0.15, 1, 20),
    ],
)
def test_num_masked_by_hand(n: int, m: int, prob: float, num_splits: int, expected: int) -> None:
    assert num_masked(n, m, prob, num_splits) == expected


def test_binary_fractions_would_be_wrong() -> None:
    """The case for rounding to 9 decimals first: without it these counts differ from the decimal ones."""
    assert 0.145 * 100 < 14.5
    assert int(0.145 * 100 + 0.5) != round_exactly("0.145", 100) == 15


@pytest.mark.parametrize(
    ("leave", "random"), [(0.1, 0.1), (0.0, 0.2), (0.1, 0.0), (0.0, 0.0), (0.15, 0.15), (0.5, 0.5), (1.0, 0.0)]
)
def test_corruption_counts_equal_exact_arithmetic(leave: float, random: float) -> None:
    for k in range(0, 300):
        mask = round_exactly(Decimal(1) - Decimal(str(leave)) - Decimal(str(random)), k)
        drawn = k - mask if leave == 0 else min(round_exactly(random, k), k - mask)
        assert corruption_counts(k, leave, random) == (mask, drawn, k - mask - drawn), k


@pytest.mark.parametrize(
    ("k", "leave", "random", "expected"),
    [
        (77, 0.1, 0.1, (62, 8, 7)),  # 61.6, 7.7
        (19, 0.1, 0.1, (15, 2, 2)),  # 15.2, 1.9
        (1, 0.1, 0.1, (1, 0, 0)),
        (2, 0.1, 0.1, (2, 0, 0)),
        (3, 0.1, 0.1, (2, 0, 1)),  # 2.4, 0.3
        (5, 0.1, 0.1, (4, 1, 0)),  # 4, 0.5
        (64, 0.0, 0.2, (51, 13, 0)),
        (64, 0.0, 0.0, (64, 0, 0)),
        (10, 0.5, 0.5, (0, 5, 5)),
        (3, 0.5, 0.5, (0, 2, 1)),
        (7, 0.0, 1.0, (0, 7, 0)),
    ],
)
def test_corruption_counts_by_hand(k: int, leave: float, random: float, expected: tuple[int, int, int]) -> None:
    assert corruption_counts(k, leave, random) == expected
