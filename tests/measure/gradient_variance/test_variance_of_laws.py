"""Theorem 1 and 2 for any law, by listing every outcome; then the whole on a model."""

import itertools

import numpy as np
import pytest
from test_laws import Listed, list_draws

from fairseq_masking.errors import UserError
from fairseq_masking.measure.gradient_variance.estimators import UNIFORM, LawDraws, estimate_variances, measure_laws
from fairseq_masking.measure.gradient_variance.law_report import estimator_rows, estimator_table, law_rows, law_table
from fairseq_masking.measure.gradient_variance.laws import mask_weights

CLIP = 0.2


def gradients_of(problem, law: Listed) -> np.ndarray:
    """The gradient of each ordered draw."""
    sets = {tuple(row): number for number, row in enumerate(problem.columns_Ck.tolist())}
    return problem.gradients_CP[[sets[tuple(sorted(order))] for order in law.orders_Ok.tolist()]]


def exact(problem, law: Listed, weights_O: np.ndarray) -> dict[str, float]:
    """Sums over all outcomes, straight from Eq. 5 and 6."""
    weighted = weights_O[:, None] * gradients_of(problem, law)
    mean = law.probabilities_O @ weighted
    return {
        "mask_variance": law.probabilities_O @ ((weighted - mean) ** 2).sum(1),
        "mean_norm": mean @ mean,
        "cross": mean @ problem.mean_P,
        "bias": ((mean - problem.mean_P) ** 2).sum(),
        "mean_weight": law.probabilities_O @ weights_O,
        "mean_square_weight": law.probabilities_O @ weights_O**2,
    }


def uniform_of(law: Listed) -> Listed:
    flat = np.where(np.isfinite(law.log_p_T), -np.log(np.isfinite(law.log_p_T).sum()), -np.inf)
    size = len(law.orders_Ok)
    return Listed(flat, law.orders_Ok, np.full(size, 1 / size), law.set_probabilities_O)


def test_estimators_are_unbiased_over_every_pair_of_draws(problem_of) -> None:
    problem, law = problem_of(3, 2), list_draws(3, 2, 1.0)
    gradients_OP, weights = gradients_of(problem, law), mask_weights(law.log_p_T, law.orders_Ok, CLIP)
    inner_OO = gradients_OP @ gradients_OP.T
    rng, size = np.random.default_rng(0), len(law.orders_Ok)
    sums: dict = {}
    ones = {"none": np.ones(2)}
    for ours in itertools.product(range(size), repeat=2):
        for theirs in itertools.product(range(size), repeat=2):
            draws = {
                "uniform": LawDraws(ones, inner_OO[np.ix_(theirs, theirs)], None, ones),
                "law": LawDraws(
                    {name: values[list(ours)] for name, values in weights.items()},
                    inner_OO[np.ix_(ours, ours)],
                    inner_OO[np.ix_(ours, theirs)],
                    {name: weights[name][list(theirs)] for name in ("set", "ordered")},
                ),
            }
            probability = law.probabilities_O[list(ours)].prod() / size**2
            for key, found in estimate_variances(draws, num_replicates=1, rng=rng).items():
                values = np.array([part[0] for part in found])
                sums[key] = sums.get(key, 0.0) + probability * values
    names = ("direct", "by_uniform", "mean_norm", "cross", "bias", "mean_weight", "mean_square_weight", "smallest")
    smallest = np.linalg.norm(gradients_OP, axis=1).mean() ** 2 - problem.mean_P @ problem.mean_P
    for (name, weight), values in sums.items():
        here, weights_O = (law, weights[weight]) if name == "law" else (uniform_of(law), np.ones(size))
        expected = exact(problem, here, weights_O)
        found = dict(zip(names, values, strict=True))
        assert found["direct"] == pytest.approx(expected["mask_variance"], rel=1e-9)
        for part in ("mean_norm", "cross", "bias", "mean_weight", "mean_square_weight"):
            assert found[part] == pytest.approx(expected[part], rel=1e-9, abs=1e-12), (name, weight, part)
        assert found["smallest"] == pytest.approx(smallest, rel=1e-9)
        if weight in ("set", "ordered"):
            assert found["by_uniform"] == pytest.approx(expected["mask_variance"], rel=1e-9)
            assert expected["bias"] < 1e-20
        elif name == "law":
            assert np.isnan(found["by_uniform"]) and expected["bias"] > 1e-4


def test_no_law_is_below_theorem_2s_bound_and_the_gradient_norms_attain_it(problem_of) -> None:
    problem = problem_of(5, 2)
    norms_C = np.linalg.norm(problem.gradients_CP, axis=1)
    bound = norms_C.mean() ** 2 - problem.mean_P @ problem.mean_P

    def variance(p_C: np.ndarray) -> float:
        weighted = problem.gradients_CP / (len(p_C) * p_C)[:, None]
        return float(p_C @ ((weighted - problem.mean_P) ** 2).sum(1))

    assert variance(norms_C / norms_C.sum()) == pytest.approx(bound, rel=1e-10)
    assert variance(np.full(len(norms_C), 1 / len(norms_C))) > bound
    rng = np.random.default_rng(0)
    assert min(variance(rng.dirichlet(np.ones(len(norms_C)))) for _ in range(200)) > bound


def test_the_sentence_variance_does_not_change_with_an_exact_weight(problem_of) -> None:
    """Eq. 6, second term."""
    problem, law = problem_of(5, 2), list_draws(5, 2, 1.5)
    for weight, values in mask_weights(law.log_p_T, law.orders_Ok, CLIP).items():
        mean = (law.probabilities_O * values) @ gradients_of(problem, law)
        unbiased = np.allclose(mean, problem.mean_P, atol=1e-12)
        assert unbiased == (weight in ("set", "ordered"))


@pytest.fixture(scope="module")
def measured(problem_of, measurement_of):
    """The whole on the tiny model, the same sequence three times, and what it has to find."""
    problem, law = problem_of(5, 2), list_draws(5, 2, 0.8)
    measurement = measurement_of(2, 5, 1)
    sequences = [measurement.sequence(index, problem.tokens_T) for index in range(3)]
    given = {"num_masked": 2, "num_draws": 100, "num_replicates": 200, "clip": CLIP}
    found = [measure_laws(measurement, each, {"law": law.log_p_T}, **given) for each in sequences]
    return problem, law, found


def test_the_whole_agrees_with_the_list(measured) -> None:
    problem, law, found = measured
    weights = mask_weights(law.log_p_T, law.orders_Ok, CLIP)
    for key in found[0].variances:
        name, weight = key
        here = law if name == "law" else uniform_of(law)
        expected = exact(problem, here, weights[weight] if name == "law" else np.ones(len(law.orders_Ok)))
        parts = {**expected, "direct": expected["mask_variance"], "by_uniform": expected["mask_variance"]}
        for part in ("direct", "by_uniform", "mean_norm", "cross", "bias", "mean_weight", "mean_square_weight"):
            values = np.mean([getattr(each.variances[key], part) for each in found], axis=0)
            if np.isnan(values[0]):
                continue
            error = values[1:].std()
            assert values[0] == pytest.approx(parts[part], abs=4.5 * error + 1e-12), (key, part)
        mean = np.mean([each.means_P[key].numpy() for each in found], axis=0)
        assert mean @ problem.mean_P == pytest.approx(expected["cross"], rel=0.15)


def test_uniform_masks_keep_their_own_weights_and_gradients(measured, measurement_of) -> None:
    problem, law, found = measured
    measurement, uniform = measurement_of(2, 5, 1), uniform_of(law)
    fixed = measurement.sequence(0, problem.tokens_T)
    drawn = fixed.draw_masks(uniform.log_p_T, 2, num_masks=100, stream=0)
    gradient = measurement.gradients(problem.tokens_T, drawn.masks)
    rows_DP = np.stack([gradient(mask).numpy() for mask in range(100)])
    inner_DD = rows_DP @ rows_DP.T
    gbar_norm = (inner_DD.sum() - np.trace(inner_DD)) / (100 * 99)
    weights_D = mask_weights(law.log_p_T, drawn.columns_Mk, CLIP)["set"]
    expected = (weights_D * np.diag(inner_DD)).mean() - gbar_norm
    assert found[0].variances["law", "set"].by_uniform[0] == pytest.approx(expected, rel=1e-9)
    # Averaged over many orders, the ordered weight is close to Eq. 5's over the orders of each mask.
    both = mask_weights(law.log_p_T, np.concatenate((drawn.columns_Mk, drawn.columns_Mk[:, ::-1])), CLIP)
    ordered_D = both["ordered"].reshape(2, 100).mean(0)
    expected = (ordered_D * np.diag(inner_DD)).mean() - gbar_norm
    assert found[0].variances["law", "ordered"].by_uniform[0] == pytest.approx(expected, rel=0.02)


def test_means_are_of_the_weighted_gradients(measured, measurement_of) -> None:
    problem, law, found = measured
    measurement = measurement_of(2, 5, 1)
    fixed = measurement.sequence(1, problem.tokens_T)
    drawn = fixed.draw_masks(law.log_p_T, 2, num_masks=100, stream=1)
    gradient = measurement.gradients(problem.tokens_T, drawn.masks)
    rows_DP = np.stack([gradient(mask).numpy() for mask in range(100)])
    for weight, values in mask_weights(law.log_p_T, drawn.columns_Mk, CLIP).items():
        expected = (values[:, None] * rows_DP).mean(0)
        np.testing.assert_allclose(found[1].means_P["law", weight].numpy(), expected, rtol=1e-8, atol=1e-12)


def test_report(measured, measurement_of) -> None:
    problem, law, found = measured
    sequences = [measurement_of(2, 5, 1).sequence(index, problem.tokens_T) for index in range(3)]
    of, rng = {"num_masked": 2, "sequence": "mean of 3"}, np.random.default_rng(0)
    rows = estimator_rows(of, sequences, found, 200, rng)
    values = {(row["law"], row["weight"], row["quantity"]): row for row in rows if row["sequence"] == "mean of 3"}
    base = values["uniform", "none", "mask variance"]["estimate"]
    for weight in ("set", "ordered", "clipped", "none"):
        row = values["law", weight, "mask variance / uniform's"]
        assert row["estimate"] == pytest.approx(values["law", weight, "mask variance"]["estimate"] / base)
        assert row["low"] <= row["estimate"] <= row["high"]
        total = values["law", weight, "mask variance"]["estimate"]
        total += values["law", weight, "sentence variance"]["estimate"]
        assert values["law", weight, "total variance"]["estimate"] == pytest.approx(total)
        error = values["law", weight, "mean square error / uniform's"]["estimate"]
        bias = values["law", weight, "bias"]["estimate"] if weight in ("clipped", "none") else 0.0
        assert error == pytest.approx((values["law", weight, "mask variance"]["estimate"] + bias) / base)
    assert values["uniform", "none", "mask variance / uniform's"]["estimate"] == 1
    assert values["any", "set", "smallest mask variance / uniform's"]["estimate"] < 1
    # One sequence three times: all that the sentences add is chance.
    assert abs(values[(*UNIFORM, "sentence variance")]["estimate"]) < 0.1 * base
    assert len({row["sequence"] for row in rows}) == 4
    lines = estimator_table(rows, 2).splitlines()
    assert len(lines) == 2 + 6 and len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| any law (Thm. 2)") and lines[-1].count("]") == 2

    other = {"law": law.log_p_T, "reverse": np.where(np.isfinite(law.log_p_T), -law.log_p_T, -np.inf)}
    other["reverse"] -= np.logaddexp.reduce(other["reverse"])
    about = law_rows(of, [other] * 3, 100, rng)
    found_laws = {(row["law"], row["quantity"]): row["estimate"] for row in about}
    assert found_laws["law", "rank correlation with reverse"] == pytest.approx(-1)
    p = np.exp(law.log_p_T[1:-1])
    assert found_laws["law", "entropy / log n"] == pytest.approx(-(p * np.log(p)).sum() / np.log(5))
    _, _, *lines = law_table(about, 2).splitlines()
    assert [line.split()[1] for line in lines] == ["law", "reverse"] and lines[0].count("|") == 4


def test_too_little_memory_is_an_error(problem_of, measurement_of) -> None:
    measurement = measurement_of(2, 5, 1, memory=100_000)
    sequence, laws = (measurement.sequence(0, problem_of(5, 2).tokens_T), {"law": list_draws(5, 2, 1.0).log_p_T})
    with pytest.raises(UserError, match="--memory"):
        measure_laws(measurement, sequence, laws, num_masked=2, num_draws=30, num_replicates=9, clip=CLIP)
