"""Weights, pairs and intervals of the bootstrap; Eq. 5 without an estimated gradient's own mask variance."""

import itertools

import numpy as np
import pytest

from fairseq_masking.measure.gradient_variance.splits import batch_variances
from fairseq_masking.measure.gradient_variance.statistics import (
    interval,
    mean_over_pairs,
    resampling_weights,
    sentence_variance,
    weighted_mean,
)

# Three sequences, each with two equally probable gradients.
GRADIENTS = np.array([[[1.0, 0.0], [3.0, 1.0]], [[0.0, -2.0], [1.0, 5.0]], [[-4.0, 0.5], [0.0, 0.0]]])


def test_pairs_of_a_draw_with_itself_and_its_copies_are_left_out() -> None:
    values = np.array([[100.0, 1.0, 2.0], [1.0, 200.0, 3.0], [2.0, 3.0, 300.0]])
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [2.0, 0.0, 1.0], [3.0, 0.0, 0.0]])
    means = mean_over_pairs(values, weights)
    np.testing.assert_allclose(means[:3], [2.0, 1.0, 2.0])
    assert np.isnan(means[3])


def test_resamples() -> None:
    weights = resampling_weights(10, 500, np.random.default_rng(0))
    assert weights.shape == (501, 10) and (weights[0] == 1).all() and (weights.sum(1) == 10).all()
    assert len(np.unique(weights, axis=0)) > 400
    np.testing.assert_allclose(weights[1:].mean(0), 1.0, atol=0.2)


def test_interval_of_a_mean() -> None:
    """The bootstrap of a mean is known: standard error s / sqrt(D)."""
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    found = interval(weighted_mean(values, resampling_weights(400, 4000, np.random.default_rng(2))))
    error = values.std() / 20
    assert found.estimate == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(error, rel=0.05)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_the_sentence_variance_is_unbiased() -> None:
    means = GRADIENTS.mean(1)
    exact = ((means - means.mean(0)) ** 2).sum(1).mean()
    estimates = []
    for sequences in itertools.product(range(3), repeat=2):
        for draws in itertools.product(range(2), repeat=4):
            found = GRADIENTS[np.repeat(sequences, 2), draws].reshape(2, 2, 2)  # [S, D, P]
            mean_norms = (found[:, 0] * found[:, 1]).sum(1)
            mean_SP = found.mean(1)
            estimates.append(sentence_variance(mean_norms, mean_SP @ mean_SP.T, np.ones((1, 2)))[0])
    assert np.mean(estimates) == pytest.approx(exact, rel=1e-12)


def test_terms_at_equal_rows() -> None:
    weights = resampling_weights(3, 10, np.random.default_rng(0))
    sentences = sentence_variance([2.0, 2.0, 2.0], np.full((3, 3), 0.5), weights)
    batches = batch_variances([8.0, 12.0, 10.0], [1.0, 2.0, 1.5], sentences, weights, num_masks=4)
    found = {name: (mask_term[0], sentence_term[0]) for name, (mask_term, sentence_term) in batches.items()}
    assert found == {"one_mask": (10.0, 1.5), "independent": (10.0, 6.0), "disjoint": (6.0, 6.0)}
