"""Weights, pairs and intervals of the bootstrap."""

import numpy as np
import pytest

from fairseq_masking.measure.gradient_variance.resampling import (
    interval,
    mean_over_pairs,
    resampling_weights,
    weighted_mean,
)


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
