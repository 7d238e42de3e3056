"""The rule of the splits, proved by enumerating everything that its generator can return."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from fairseq_masking.masking.units import cut_splits, span_length_cdf, tile_spans

# Unit lengths: subwords; words; a word longer than tau; one single word; and uneven ones.
UNITS = [(1, 1, 1, 1, 1), (2, 1, 3), (5, 1, 1), (6,), (1, 4, 2)]


class Script:
    """A stand-in for the generator that takes one path through all outcomes and notes how many there are."""

    def __init__(self, order: tuple[int, ...], offset: int, labels: tuple[int, ...]) -> None:
        self.permutations = [order, labels]
        self.offset = offset

    def permutation(self, size: int) -> np.ndarray:
        permutation = self.permutations.pop(0)
        assert len(permutation) == size
        return np.array(permutation)

    def integers(self, high: int) -> int:
        self.high = high
        return self.offset


def outcomes(lengths: tuple[int, ...], num_splits: int, tau: int) -> list[tuple[tuple[int, ...], ...]]:
    """Every equally likely result; each is K tuples of tokens."""
    m = sum(lengths)
    starts = np.cumsum((0, *lengths[:-1]))
    results = []
    for order in itertools.permutations(range(len(lengths))):
        for labels in itertools.permutations(range(num_splits)):
            for offset in range(m):
                script = Script(order, offset, labels)
                split = cut_splits(starts, m, num_splits, tau, script)  # type: ignore[arg-type]
                assert script.high == m, "the offset must be uniform in [0, m)"
                results.append(tuple(tuple(row) for row in split.tolist()))
    return results


CASES = [(u, k, t) for u in UNITS for k in (1, 2, 3) for t in (1, 2, 3) if k * t <= sum(u)]


@pytest.mark.parametrize(("lengths", "num_splits", "tau"), CASES)
def test_every_token_is_equally_likely_in_every_split(lengths: tuple[int, ...], num_splits: int, tau: int) -> None:
    m = sum(lengths)
    results = outcomes(lengths, num_splits, tau)
    for split in range(num_splits):
        count = Counter(token for result in results for token in result[split])
        for token in range(m):
            assert Fraction(count[token], len(results)) == Fraction(tau, m), (split, token)


@pytest.mark.parametrize(("lengths", "num_splits", "tau"), CASES)
def test_splits_are_disjoint_and_exchangeable(lengths: tuple[int, ...], num_splits: int, tau: int) -> None:
    results = outcomes(lengths, num_splits, tau)
    for result in results:
        tokens = [token for row in result for token in row]
        assert len(tokens) == len(set(tokens)) == num_splits * tau
    joint = Counter(tuple(tuple(sorted(row)) for row in result) for result in results)
    for labels in itertools.permutations(range(num_splits)):
        assert Counter({tuple(r[i] for i in labels): c for r, c in joint.items()}) == joint


@pytest.mark.parametrize(("lengths", "num_splits", "tau"), CASES)
def test_units_are_cut_at_the_ends_of_runs_only(lengths: tuple[int, ...], num_splits: int, tau: int) -> None:
    """Within a run a token is followed by its neighbour, unless its unit ends there or the circle closes."""
    last_of_unit = set((np.cumsum(lengths) - 1).tolist())
    first_of_unit = set((np.cumsum(lengths) - lengths).tolist())
    for result in outcomes(lengths, num_splits, tau):
        for row in result:
            for left, right in itertools.pairwise(row):
                assert right == left + 1 or (left in last_of_unit and right in first_of_unit)
            partial = 0
            for unit_end, length in zip(np.cumsum(lengths), lengths, strict=True):
                chosen = len(set(row) & set(range(unit_end - length, unit_end)))
                partial += chosen not in (0, length)
            assert partial <= 2


def test_subword_masks_are_uniform_over_all_sets() -> None:
    """Lemma 2: five tokens, two splits of two; all 30 ordered pairs of disjoint sets are equally likely."""
    results = outcomes((1, 1, 1, 1, 1), num_splits=2, tau=2)
    joint = Counter(tuple(frozenset(row) for row in result) for result in results)
    assert len(joint) == 30
    assert len(set(joint.values())) == 1


def test_span_lengths_follow_the_truncated_geometric_law() -> None:
    """The probabilities by hand: 0.2 * 0.8**(l - 1) / (1 - 0.8**10), mean 3.797."""
    mass = np.array([0.2 * 0.8 ** (length - 1) for length in range(1, 11)]) / (1 - 0.8**10)
    np.testing.assert_allclose(np.diff(span_length_cdf(0.2, 10), prepend=0, append=1), mass, atol=1e-12)
    assert abs((mass * np.arange(1, 11)).sum() - 3.797) < 1e-3
    assert span_length_cdf(0.2, 1).tolist() == []
    assert span_length_cdf(1.0, 5).tolist() == [1.0] * 4


def test_span_lengths_drawn(chi_square_limit) -> None:
    """Chi-square of drawn lengths; the last span of a tiling is clipped by the sequence and left out."""
    cdf = span_length_cdf(0.2, 10)
    rng = np.random.default_rng(0)
    words = np.arange(0, 20_000, 2)
    counts = np.zeros(10)
    for _ in range(10):
        starts = tile_spans(words, cdf, rng)
        assert starts[0] == 0 and set(starts) <= set(words)
        lengths = np.diff(starts)[:-1] // 2
        assert lengths.min() >= 1 and lengths.max() <= 10
        counts += np.bincount(lengths - 1, minlength=10)
    expected = np.diff(cdf, prepend=0, append=1) * counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_limit(9)


def test_spans_of_few_words() -> None:
    cdf = span_length_cdf(0.2, 10)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        assert tile_spans(np.array([0]), cdf, rng).tolist() == [0]
        assert tile_spans(np.array([0, 7]), cdf, rng).tolist() in ([0], [0, 7])
    assert tile_spans(np.arange(5), span_length_cdf(0.2, 1), np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]
