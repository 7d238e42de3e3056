"""The paper's statements, by listing every mask and every K-tuple: nothing is sampled or estimated."""

from collections.abc import Callable

import numpy as np
import pytest
from tiny_problem import Problem

SIZES = [(6, 2, 3), (7, 2, 3), (6, 2, 2), (6, 1, 4)]


def k_mask_gradients(problem: Problem, tuples: np.ndarray) -> np.ndarray:
    """Eq. 6."""
    return problem.gradients_CP[tuples].mean(1)


@pytest.mark.parametrize(("n", "tau", "num_masks"), SIZES)
@pytest.mark.parametrize("disjoint", [False, True])
def test_theorem_1_and_lemma_3(
    problem_of: Callable[[int, int], Problem], n: int, tau: int, num_masks: int, disjoint: bool
) -> None:
    problem = problem_of(n, tau)
    tuples = problem.tuples(num_masks, disjoint=disjoint)
    left = problem.variance(k_mask_gradients(problem, tuples))

    centred = problem.gradients_CP - problem.mean_P
    covariance = (centred[tuples[:, 0]] * centred[tuples[:, 1]]).sum(1).mean()  # Eq. 8
    right = problem.variance(problem.gradients_CP) / num_masks + (1 - 1 / num_masks) * covariance
    assert left == pytest.approx(right, rel=1e-10)
    if not disjoint:
        assert abs(covariance) < 1e-10 * left


@pytest.mark.parametrize(("n", "tau", "num_masks"), SIZES)
def test_lemma_2(problem_of: Callable[[int, int], Problem], n: int, tau: int, num_masks: int) -> None:
    problem = problem_of(n, tau)
    tuples = problem.tuples(num_masks, disjoint=True)
    np.testing.assert_allclose(k_mask_gradients(problem, tuples).mean(0), problem.mean_P, atol=1e-12)
    # Not for nothing: a tuple's own mean is far from it.
    assert np.abs(k_mask_gradients(problem, tuples[:1])[0] - problem.mean_P).max() > 1e-3


def test_the_covariance_averages_to_zero_over_the_distances_of_independent_masks(
    problem_of: Callable[[int, int], Problem],
) -> None:
    problem = problem_of(7, 2)
    centred = problem.gradients_CP - problem.mean_P
    assert abs((centred @ centred.T).mean()) < 1e-12
    assert (centred @ centred.T).diagonal().mean() > 0.01
