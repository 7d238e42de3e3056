"""Covariance by Hamming distance: unbiased for each pair, and right at distances 0 and 2 tau."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_problem import Problem

from fairseq_masking.measure.gradient_variance.distances import (
    covariance_curve,
    hamming_distances,
    measure_distances,
    monotonicity,
    pair_covariances,
)
from fairseq_masking.measure.gradient_variance.gradients import Measurement


def exact_covariances(problem: Problem, distances: list[int]) -> list[float]:
    centred = problem.gradients_CP - problem.mean_P
    sets = [set(row) for row in problem.columns_Ck.tolist()]
    distance_CC = np.array([[len(one ^ other) for other in sets] for one in sets])
    return [float((centred @ centred.T)[distance_CC == distance].mean()) for distance in distances]


def test_every_pair_is_unbiased(problem_of: Callable[[int, int], Problem]) -> None:
    """Over all outcomes of the two estimates of the mean gradient, from one mask each."""
    problem = problem_of(5, 2)
    gradients = torch.from_numpy(problem.gradients_CP)
    pair = gradients[[1, 6]]
    means = [
        pair_covariances(lambda number: pair[number], 1, gradients[first], gradients[second])[0]
        for first, second in itertools.product(range(10), repeat=2)
    ]
    exact = (problem.gradients_CP[1] - problem.mean_P) @ (problem.gradients_CP[6] - problem.mean_P)
    assert np.mean(means) == pytest.approx(exact, rel=1e-10)


def test_the_measurement_converges_to_the_listed_values(
    measurement_of: Callable[..., Measurement], problem_of: Callable[[int, int], Problem]
) -> None:
    problem = problem_of(7, 2)
    distances = [0, 2, 4]
    measurement = measurement_of(2, 7, 3)
    sequence = measurement.sequence(5, problem.tokens_T)
    values_HQ = measure_distances(measurement, sequence, distances, num_pairs=120, num_reference=200)
    curve = covariance_curve([*distances, -1], values_HQ[:, None])
    exact = [*exact_covariances(problem, distances), 0.0]
    assert exact[0] == pytest.approx(problem.variance(problem.gradients_CP))
    assert exact[0] > exact[1] > exact[2]  # Assumption 1 holds here
    errors = np.hypot(curve.standard_errors_H, 0.01 * exact[0])  # pairs, and the estimates of gbar
    assert (np.abs(curve.means_H - exact) < 4 * errors).all()
    # Sharp enough to tell neighbours apart.
    assert (4 * errors < 0.6 * min(exact[0] - exact[1], exact[1] - exact[2])).all()


def test_distances() -> None:
    assert hamming_distances(128, 510, 9) == list(range(0, 257, 32))
    assert hamming_distances(3, 20, 9) == [0, 2, 4, 6]
    assert hamming_distances(6, 10, 3) == [0, 4, 8]  # two masks of 6 of 10 share at least 2


def test_curve_and_assumption_1() -> None:
    values = np.array([[[4.0, 6.0], [9.0, 11.0]], [[1.0, 3.0], [3.0, 5.0]], [[-1.0, 1.0], [-8.0, -4.0]]])
    curve = covariance_curve([0, 8, 16], values)
    np.testing.assert_allclose(curve.means_H, [7.5, 3.0, -3.0])
    # sqrt(sum over sequences of s**2 / Q) / S, with s**2 = 2, 2; 2, 2; 2, 8
    np.testing.assert_allclose(curve.standard_errors_H, np.sqrt([2.0, 2.0, 5.0]) / 2)
    np.testing.assert_allclose(curve.relative_HSQ[1], [[0.2, 0.6], [0.3, 0.5]])
    judged = monotonicity(curve)
    assert (judged.num_rises, judged.largest_rise, judged.sign_change) == (0, -4.5, 12.0)
    assert judged.standard_error == pytest.approx(np.sqrt(4.0) / 2)
    assert monotonicity(covariance_curve([0, 8, 16], values[[0, 2, 1]])).num_rises == 1
