"""The measurements as rows: a quantity, what it is of, the equation it estimates, its value and interval.

Intervals (95%) are over draws or pairs of masks for the given sequences; those of Eq. 5, of the sentence
variance, of totals and of what is said of the laws themselves are over the sequences.
Shapes: S sequences, T tokens, H distances, Q pairs; resampled arrays [1 + R] as in statistics.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq_masking.figures.tables import format_table
from fairseq_masking.measure.gradient_variance.covariance import CovarianceCurve, covariance_curve, monotonicity
from fairseq_masking.measure.gradient_variance.draws import FixedSequence
from fairseq_masking.measure.gradient_variance.measurement import SequenceEstimators, SequenceVariances
from fairseq_masking.measure.gradient_variance.statistics import (
    BatchVariance,
    Interval,
    Resampled,
    average,
    batch_variances,
    interval,
    resampling_weights,
    sentence_variance,
    weighted_mean,
)
from fairseq_masking.measure.gradient_variance.variance import (
    UNIFORM,
    EstimatorVariance,
    Key,
    MaskVariances,
    without_replacement_ratio,
)
from fairseq_masking.methods.map_net.ragged import rank_correlation

__all__ = [
    "describe_monotonicity",
    "distance_rows",
    "estimator_rows",
    "estimator_table",
    "law_rows",
    "law_table",
    "row_table",
    "split_rows",
]

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]
Quantity = tuple[str, str, Resampled | Interval]  # name, equation, values

RATIO = "mask variance / uniform's"
DIRECT_RATIO = "mask variance / uniform's, direct"
SMALLEST_RATIO = "smallest mask variance / uniform's"
RELATIVE_BIAS = "bias / ||gbar||^2"
ADDITIVE_RATIO = "ratio if g were additive"
_BEYOND = 1e100
_COLUMNS = {  # heading of the table -> quantity
    "mask variance": "mask variance",
    "/ uniform": RATIO,
    "/ uniform, direct": DIRECT_RATIO,
    "sentence variance": "sentence variance",
    "total / uniform": "total variance / uniform's",
    "bias": RELATIVE_BIAS,
    "cosine": "cosine of E[w g] and gbar",
    "noise/signal": "mask variance / ||E[w g]||^2, / uniform's",
    "effective draws": "effective share of draws",
}
_BOUND = {"smallest mask variance": "mask variance", SMALLEST_RATIO: RATIO}  # in those columns


def split_rows(
    sequences: Sequence[FixedSequence],
    measured: Sequence[SequenceVariances],
    num_replicates: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Tabulate ``measure_splits``: first the mean over the sequences, Eq. 5, then each sequence."""
    num_masks = sequences[0].config.num_splits
    variances = [each.variances for each in measured]
    sizes = [(each.tau, len(each.columns_m)) for each in sequences]
    additive = [without_replacement_ratio(m, tau, num_masks) for tau, m in sizes]
    mean_tau, mean_m = np.mean(sizes, axis=0)
    of = {"sequence": f"mean of {len(sequences)}", "tau": mean_tau, "maskable": mean_m}
    rows = _rows(of, _split_quantities(average(variances), float(np.mean(additive))))
    if len(measured) > 2:
        counts = resampling_weights(len(measured), num_replicates, rng)
        rows += _rows(of, _batch_quantities(measured, num_masks, counts))
    for sequence, (tau, m), each, ratio in zip(sequences, sizes, variances, additive, strict=True):
        of = {"sequence": sequence.index, "tau": tau, "maskable": m}
        rows += _rows(of, _split_quantities(each, ratio))
    return rows


def distance_rows(
    name: str, num_masked: int, distances: Sequence[int], values_HSQ: npt.NDArray[np.float64]
) -> list[Row]:
    """Tabulate ``measure_distances``, a row for each distance and one for independent masks.

    ``relative`` is the ratio to distance 0.
    """
    curve = covariance_curve([*distances, -1], values_HSQ)
    rows = []
    for label, mean, error, half in zip(
        [*distances, "independent"], curve.means_H, curve.standard_errors_H, curve.half_widths_H, strict=True
    ):
        of = {"checkpoint": name, "tau": num_masked, "distance": label}
        rows += _rows(of, [("covariance", "Eq. 8", Interval(mean, error, mean - half, mean + half))])
        rows[-1] |= {"relative": mean / curve.means_H[0], "pairs": values_HSQ[0].size}
    return rows


def describe_monotonicity(curve: CovarianceCurve, num_masked: int, num_maskable: float) -> str:
    """Say in a line whether a curve supports Assumption 1, and where independent masks lie on it."""
    judged = monotonicity(curve)
    where = "nowhere" if judged.sign_change is None else f"at H = {judged.sign_change:.1f}"
    expected = 2 * num_masked * (1 - num_masked / num_maskable)
    return (
        f"Assumption 1 (monotone decreasing): {judged.num_rises} of {len(curve.distances_H) - 1} steps rise,"
        f" the largest step is {judged.largest_rise:.4g} ± {judged.standard_error:.2g};"
        f" the covariance crosses 0 {where} (independent masks are {expected:.1f} apart on average)"
    )


@np.errstate(divide="ignore", invalid="ignore")  # a resample of copies of one draw has no variance
def estimator_rows(
    of: Row,
    sequences: Sequence[FixedSequence],
    measured: Sequence[SequenceEstimators],
    num_replicates: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Tabulate ``measure_laws``: the mean over the sequences, then each sequence's ratios.

    Args:
        of: what begins each row: ``num_masked`` and ``sequence``, for the mean.
    """
    counts = resampling_weights(len(measured), num_replicates, rng)
    means = {key: average([each.variances[key] for each in measured]) for key in measured[0].variances}
    terms = {key: _terms(measured, key, counts) for key in means}
    uniform, base = means[UNIFORM], terms[UNIFORM]
    rows: list[Row] = []
    for key, found in means.items():
        quantities = _mask_quantities(found, uniform)
        if len(measured) > 2:
            own = terms[key]
            quantities += [
                ("sentence variance", "Eq. 4, 6", own.sentence_term),
                ("sentence variance / uniform's", "Eq. 6", own.sentence_term / base.sentence_term),
                ("total variance", "Eq. 3-6", own.total),
                ("total variance / uniform's", "Eq. 3-6", own.total / base.total),
            ]
        rows += _rows(_of_law(of, key), quantities)
    bounds: list[Quantity] = [
        ("smallest mask variance", "Thm. 2", uniform.smallest),
        (SMALLEST_RATIO, "Thm. 2", uniform.smallest / uniform.mask_variance),
    ]
    rows += _rows(_of_law(of, ("any", "set")), bounds)
    for sequence, each in zip(sequences, measured, strict=True):
        own_of = {**of, "sequence": sequence.index}
        for key, found in each.variances.items():
            quantities = _mask_quantities(found, each.variances[UNIFORM])[:2]  # itself and its ratio
            rows += _rows(_of_law(own_of, key), quantities)
    return rows


def law_rows(
    of: Row, laws: Sequence[Mapping[str, Floats]], num_replicates: int, rng: np.random.Generator
) -> list[Row]:
    """Tabulate the laws themselves: entropy as a share of the uniform one's, rank correlation of each two.

    Args:
        of: see ``estimator_rows``.
        laws: for each sequence log p ``[T]`` by name.
    """
    counts = resampling_weights(len(laws), num_replicates, rng)
    rows: list[Row] = []
    for name in laws[0]:
        found = {"entropy / log n": [_relative_entropy(each[name]) for each in laws]}
        for other in laws[0]:
            if other != name:
                correlations = [_rank_correlation(each[name], each[other]) for each in laws]
                found[f"rank correlation with {other}"] = correlations
        rows += _rows(
            _of_law(of, (name, "")),
            [(quantity, "", weighted_mean(np.array(values), counts)) for quantity, values in found.items()],
        )
    return rows


def row_table(rows: Sequence[Row]) -> str:
    """Return the rows as they are; of splits only those of the mean and each sequence's ratio."""
    shown = [r for r in rows if str(r.get("sequence", "mean")).startswith("mean") or r["quantity"] == "ratio"]
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in shown]
    return format_table(list(shown[0]), cells)


def estimator_table(rows: Sequence[Row], num_masked: int) -> str:
    """Return a line for each law and weight, and one for Theorem 2's bound."""
    chosen = [row for row in _means(rows, num_masked) if row["weight"]]
    for number, row in enumerate(chosen):
        if row["law"] == "any":
            chosen[number] = {**row, "law": "any law (Thm. 2)", "quantity": _BOUND[row["quantity"]]}
    return _pivot(chosen, ("law", "weight"), _COLUMNS)


def law_table(rows: Sequence[Row], num_masked: int) -> str:
    """Return a line for each law: entropy and rank correlations."""
    chosen = [row for row in _means(rows, num_masked) if not row["weight"]]
    others = list(dict.fromkeys(row["law"] for row in chosen))[1:]
    columns = {f"rank corr. with {other}": f"rank correlation with {other}" for other in others}
    return _pivot(chosen, ("law",), {"entropy / log n": "entropy / log n", **columns})


def _means(rows: Sequence[Row], num_masked: int) -> list[Row]:
    return [r for r in rows if r["num_masked"] == num_masked and str(r["sequence"]).startswith("mean")]


def _pivot(rows: Sequence[Row], keys: tuple[str, ...], columns: Mapping[str, str]) -> str:
    """A line for each value of ``keys``; columns: heading -> quantity, as an estimate with its interval."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        lines.setdefault(tuple(row[key] for key in keys), {})[row["quantity"]] = _with_interval(row)
    cells = [[*line, *(found.get(name, "") for name in columns.values())] for line, found in lines.items()]
    return format_table([*keys, *columns], cells)


def _with_interval(row: Row) -> str:
    if row["estimate"] > _BEYOND:  # laws.py ends weights there
        return f"beyond {_BEYOND:.0e}"
    if row["low"] == row["high"]:
        return f"{row['estimate']:.3g}"
    return f"{row['estimate']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def _rows(of: Row, quantities: Sequence[Quantity]) -> list[Row]:
    rows = []
    for name, equation, values in quantities:
        found = values if isinstance(values, Interval) else interval(values)
        rows.append({**of, "quantity": name, "equation": equation, **found._asdict()})
    return rows


def _of_law(of: Row, key: Key) -> Row:
    return {**of, "law": key[0], "weight": key[1]}


def _split_quantities(variances: MaskVariances, additive_ratio: float) -> list[Quantity]:
    plain, disjoint = variances.independent, variances.disjoint
    return [
        ("ratio", "Var disjoint / independent", disjoint.variance / plain.variance),
        ("ratio by Eq. 7", "Eq. 7 / Eq. 7", variances.disjoint_by_eq7 / variances.independent_by_eq7),
        ("independent: Var of K masks", "Eq. 6", plain.variance),
        ("independent: by Eq. 7", "Eq. 7", variances.independent_by_eq7),
        ("independent: Eq. 7 - measured", "Eq. 7", variances.independent_by_eq7 - plain.variance),
        ("independent: Var(g(m1))", "Eq. 8", plain.mask_variance),
        ("independent: Cov(g(m1), g(m2))", "Eq. 8", plain.mask_covariance),
        ("disjoint: Var of K masks", "Eq. 6, 10", disjoint.variance),
        ("disjoint: by Eq. 7", "Eq. 7", variances.disjoint_by_eq7),
        ("disjoint: Eq. 7 - measured", "Lemma 3", variances.disjoint_by_eq7 - disjoint.variance),
        ("disjoint: Var(g(m1))", "Eq. 8", disjoint.mask_variance),
        ("disjoint: Cov(g(m1), g(m2))", "Eq. 8, 10", disjoint.mask_covariance),
        ("disjoint: correlation", "Cov / Var", disjoint.mask_covariance / plain.mask_variance),
        ("||gbar||^2, independent", "Eq. 9", plain.mean_norm),
        ("||gbar||^2, disjoint", "Lemma 2", disjoint.mean_norm),
        (ADDITIVE_RATIO, "(m-K tau)/(m-tau)", Interval(additive_ratio)),  # for comparison
    ]


def _batch_quantities(measured: Sequence[SequenceVariances], num_masks: int, counts: Floats) -> list[Quantity]:
    laws = [(each.variances.independent, each.variances.disjoint) for each in measured]
    batches = batch_variances(
        np.array([plain.mask_variance[0] for plain, _ in laws]),
        np.array([disjoint.variance[0] for _, disjoint in laws]),
        np.array([(plain.mean_norm[0] + disjoint.mean_norm[0]) / 2 for plain, disjoint in laws]),
        _inner_products([each.mean_P for each in measured]),
        counts,
        num_masks=num_masks,
    )
    quantities: list[Quantity] = [
        (f"rows x {term}: {name}", "Eq. 5", values)
        for name, batch in batches.items()
        for term, values in (
            ("mask term", batch.mask_term), ("sentence term", batch.sentence_term), ("total", batch.total)
        )
    ]  # fmt: skip
    difference = batches["disjoint"].total - batches["one_mask"].total
    return [*quantities, ("rows x total: disjoint - one_mask", "Eq. 5", difference)]


def _mask_quantities(found: EstimatorVariance, uniform: EstimatorVariance) -> list[Quantity]:
    gbar_norm, base = uniform.mean_norm, uniform.mask_variance
    # What is known of an unbiased weight need not be estimated from few effective draws.
    signal = gbar_norm if found.is_unbiased else found.mean_norm
    bias = np.zeros_like(gbar_norm) if found.is_unbiased else found.bias
    mean_weight = np.ones_like(gbar_norm) if found.is_unbiased else found.mean_weight
    noise_over_signal = found.mask_variance / signal / (base / gbar_norm)
    return [
        ("mask variance", "Eq. 3, 6", found.mask_variance),
        (RATIO, "Eq. 6", found.mask_variance / base),
        ("mask variance, direct", "Eq. 3, 6", found.direct),
        (DIRECT_RATIO, "Eq. 6", found.direct / base),
        ("mean square error / uniform's", "Eq. 6", (found.mask_variance + bias) / base),
        ("mask variance / ||E[w g]||^2, / uniform's", "Eq. 6", noise_over_signal),
        ("||E[w g]||^2", "Eq. 5", found.mean_norm),
        ("bias", "Eq. 5", found.bias),
        (RELATIVE_BIAS, "Eq. 5", found.bias / gbar_norm),
        ("cosine of E[w g] and gbar", "Eq. 5", found.cross / np.sqrt(np.abs(found.mean_norm * gbar_norm))),
        ("mean weight", "Eq. 5", found.mean_weight),
        ("effective share of draws", "Eq. 5", mean_weight**2 / found.mean_square_weight),
    ]


def _terms(measured: Sequence[SequenceEstimators], key: Key, counts: Floats) -> BatchVariance:
    """Mask and sentence variance of a law with a weight, resampled over the sequences."""
    variances = [each.variances[key] for each in measured]
    norms_S = np.array([each.mean_norm[0] for each in variances])
    inner_SS = _inner_products([each.means_P[key] for each in measured])
    mask_variances_S = np.array([each.mask_variance[0] for each in variances])
    return BatchVariance(weighted_mean(mask_variances_S, counts), sentence_variance(norms_S, inner_SS, counts))


def _inner_products(means_P: Sequence[Tensor]) -> Floats:
    means_SP = torch.stack(list(means_P))
    return (means_SP @ means_SP.t()).double().cpu().numpy()


def _relative_entropy(log_p_T: Floats) -> float:
    log_p_n = log_p_T[log_p_T > -np.inf]
    return float(-(np.exp(log_p_n) * log_p_n).sum() / np.log(len(log_p_n)))


def _rank_correlation(left_T: Floats, right_T: Floats) -> float:
    kept_T = left_T > -np.inf
    left, right = (torch.from_numpy(values[kept_T])[None] for values in (left_T, right_T))
    correlation, defined = rank_correlation(left, right, torch.ones_like(left, dtype=torch.bool))
    return float(correlation[0]) if bool(defined[0]) else float("nan")
