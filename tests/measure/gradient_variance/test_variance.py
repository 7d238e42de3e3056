"""The estimators: unbiased, exactly, by listing all their outcomes; and convergent on the real pipeline."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_problem import Problem

from fairseq_masking.masking import MaskedItem
from fairseq_masking.measure.gradient_variance.gradients import Measurement
from fairseq_masking.measure.gradient_variance.splits import compare_laws, measure_splits, without_replacement_ratio
from fairseq_masking.measure.gradient_variance.statistics import LawMoments, interval, law_variances


def moments_of(problem: Problem, draws_DK: np.ndarray) -> LawMoments:
    numbers = draws_DK.reshape(-1)
    return LawMoments.from_gram(problem.inner_CC[np.ix_(numbers, numbers)], draws_DK.shape[1])


def exact_of(problem: Problem, tuples: np.ndarray) -> dict[str, float]:
    centred = problem.gradients_CP - problem.mean_P
    pairs = list(itertools.permutations(range(tuples.shape[1]), 2))
    return {
        "mask_variance": problem.variance(problem.gradients_CP),
        "mask_covariance": float(
            np.mean([(centred[tuples[:, k]] * centred[tuples[:, j]]).sum(1).mean() for k, j in pairs])
        ),
        "variance": problem.variance(problem.gradients_CP[tuples].mean(1)),
        "mean_norm": float(problem.mean_P @ problem.mean_P),
    }


@pytest.mark.parametrize(("n", "tau", "num_masks", "disjoint"), [(6, 2, 3, True), (5, 2, 2, True), (5, 1, 2, False)])
def test_every_estimator_is_unbiased(
    problem_of: Callable[[int, int], Problem], n: int, tau: int, num_masks: int, disjoint: bool
) -> None:
    """The mean over all outcomes of two draws is the exact value."""
    problem = problem_of(n, tau)
    tuples = problem.tuples(num_masks, disjoint=disjoint)
    ones = np.ones((1, 2))
    estimates = np.array(
        [
            [values[0] for values in law_variances(moments_of(problem, tuples[list(draws)]), ones)]
            for draws in itertools.product(range(len(tuples)), repeat=2)
        ]
    )
    exact = exact_of(problem, tuples)
    for name, mean in zip(exact, estimates.mean(0), strict=True):
        assert mean == pytest.approx(exact[name], rel=1e-10, abs=1e-12), name


def test_the_variance_is_the_sample_variance(problem_of: Callable[[int, int], Problem]) -> None:
    problem = problem_of(6, 2)
    draws = np.random.default_rng(0).integers(15, size=(9, 3))
    estimate = law_variances(moments_of(problem, draws), np.ones((1, 9))).variance[0]
    assert estimate == pytest.approx(problem.gradients_CP[draws].mean(1).var(0, ddof=1).sum(), rel=1e-10)


def test_eq_7_is_predicted_without_bias_from_the_other_law(problem_of: Callable[[int, int], Problem]) -> None:
    """K = 3, since for K = 2 the two factors of Eq. 7 are the same."""
    problem = problem_of(3, 1)
    disjoint, independent = problem.tuples(3, disjoint=True), problem.tuples(3, disjoint=False)
    rng = np.random.default_rng(1)
    predicted = []
    for first, second in itertools.product(range(len(independent)), repeat=2):
        plain = moments_of(problem, independent[[first, second]])
        # Of the disjoint draws only the mean of the products counts: one after the other will do.
        draw = len(predicted) % len(disjoint)
        compared = compare_laws(
            plain, moments_of(problem, disjoint[[draw, draw]]), num_masks=3, num_replicates=2, rng=rng
        )
        predicted.append((compared.independent_by_eq7[0], compared.disjoint_by_eq7[0]))
    plain_mean, disjoint_mean = np.mean(predicted, axis=0)
    exact = exact_of(problem, independent)["variance"]
    assert exact > 0.01
    assert plain_mean == pytest.approx(exact, rel=1e-10)
    # All three tokens are masked in each draw: nothing is left to vary.
    assert exact_of(problem, disjoint)["variance"] == pytest.approx(0.0, abs=1e-12)
    assert disjoint_mean == pytest.approx(0.0, abs=1e-10 * exact)


@pytest.mark.parametrize(("m", "tau", "num_masks"), [(6, 2, 3), (7, 2, 3), (6, 2, 2), (6, 1, 4)])
def test_additive_gradients_have_the_ratio_of_sampling_without_replacement(
    problem_of: Callable[[int, int], Problem], m: int, tau: int, num_masks: int
) -> None:
    problem = problem_of(m, tau)
    positions = np.random.default_rng(5).normal(size=(m, 11))
    gradients = positions[problem.columns_Ck - 1].sum(1)
    additive = problem._replace(gradients_CP=gradients, mean_P=gradients.mean(0), inner_CC=gradients @ gradients.T)
    exact = [
        additive.variance(gradients[problem.tuples(num_masks, disjoint=disjoint)].mean(1))
        for disjoint in (True, False)
    ]
    # m = K tau leaves nothing to vary: the ratio is 0.
    assert exact[0] / exact[1] == pytest.approx(without_replacement_ratio(m, tau, num_masks), abs=1e-10)


@pytest.mark.parametrize(("n", "tau", "num_masks"), [(7, 2, 3)])
def test_the_measurement_converges_to_the_listed_values(
    measurement_of: Callable[..., Measurement],
    problem_of: Callable[[int, int], Problem],
    n: int,
    tau: int,
    num_masks: int,
) -> None:
    """Masks from the Masker, gradients from the model, Gram matrix in several blocks, bootstrap."""
    problem = problem_of(n, tau)
    row = problem.gradients_CP[0].nbytes
    measurement = measurement_of(tau, n, num_masks, memory=300 * row)
    fixed = measurement.sequence(7, problem.tokens_T)
    variances, mean_P = measure_splits(measurement, fixed, num_draws=120, num_replicates=400)
    for law, disjoint in ((variances.independent, False), (variances.disjoint, True)):
        exact = exact_of(problem, problem.tuples(num_masks, disjoint=disjoint))
        for name, values in law._asdict().items():
            found = interval(values)
            assert abs(found.estimate - exact[name]) < 4 * found.standard_error, (name, disjoint)
            # Sharp enough to tell the laws apart: their variances differ by far more than that.
            assert found.standard_error < 0.2 * exact["mask_variance"], (name, disjoint)
    ratio = interval(variances.disjoint.variance / variances.independent.variance)
    laws = [exact_of(problem, problem.tuples(num_masks, disjoint=each))["variance"] for each in (True, False)]
    assert abs(ratio.estimate - laws[0] / laws[1]) < 4 * ratio.standard_error
    assert abs(ratio.estimate - 1) > 4 * ratio.standard_error
    for predicted, law in (
        (variances.independent_by_eq7, variances.independent),
        (variances.disjoint_by_eq7, variances.disjoint),
    ):
        difference = interval(predicted - law.variance)
        assert abs(difference.estimate) < 4 * difference.standard_error
    np.testing.assert_allclose(mean_P.numpy(), problem.mean_P, atol=0.2 * np.abs(problem.mean_P).max())


def test_no_random_stream_serves_both_laws(
    measurement_of: Callable[..., Measurement], sequence: Callable[[int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stream in common, an independent mask would be one of a draw's disjoint masks."""
    seen: list[set[tuple[int, ...]]] = []

    def record(self: Measurement, tokens_T: np.ndarray, masks: MaskedItem) -> Callable[[int], torch.Tensor]:
        seen.append({tuple(sorted(row)) for row in masks.columns.tolist()})
        return lambda number: torch.ones(1)

    monkeypatch.setattr(Measurement, "gradients", record)
    measurement = measurement_of(8, 40, 4)
    measure_splits(measurement, measurement.sequence(0, sequence(40)), num_draws=20, num_replicates=2)
    assert [len(masks) for masks in seen] == [80, 80]
    assert not seen[0] & seen[1]


def test_intervals_cover_the_exact_ratio(problem_of: Callable[[int, int], Problem]) -> None:
    """Of 200 measurements with 20 draws, 95% intervals hold the truth in 95% but for chance."""
    problem = problem_of(6, 2)
    tuples = [problem.tuples(2, disjoint=disjoint) for disjoint in (False, True)]
    plain, disjoint = (exact_of(problem, each)["variance"] for each in tuples)
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        moments = [moments_of(problem, each[rng.integers(len(each), size=20)]) for each in tuples]
        compared = compare_laws(*moments, num_masks=2, num_replicates=300, rng=rng)
        found = interval(compared.disjoint.variance / compared.independent.variance)
        covered += found.low <= disjoint / plain <= found.high
    assert 172 <= covered <= 199  # 86%: a percentile interval of 20 draws is a little short
