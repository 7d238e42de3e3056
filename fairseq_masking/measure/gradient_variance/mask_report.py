"""The measurements as rows of a table: one quantity a row, with the equation it estimates.

Shapes: S sequences, H distances, Q pairs; resampled arrays [1 + R] as in resampling.py.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fairseq_masking.measure.gradient_variance.mask_covariance import (
    CovarianceCurve,
    covariance_curve,
    monotonicity,
)
from fairseq_masking.measure.gradient_variance.mask_measurement import SequenceVariances
from fairseq_masking.measure.gradient_variance.mask_variance import MaskVariances, without_replacement_ratio
from fairseq_masking.measure.gradient_variance.resampling import interval
from fairseq_masking.measure.gradient_variance.sentence_variance import batch_variances

__all__ = ["covariance_rows", "describe_monotonicity", "format_rows", "variance_rows"]

Row = dict[str, Any]
Resampled = npt.NDArray[np.float64]


def variance_rows(
    indices: Sequence[int],
    counts: Sequence[tuple[int, int]],
    measured: Sequence[SequenceVariances],
    num_masks: int,
    num_replicates: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Tabulate ``measure_variance``: first the mean over the sequences, Eq. 5, then each sequence.

    Args:
        indices: of the sequences in their dataset.
        counts: tau and m of each.
        num_masks: K.

    Returns:
        Rows with sequence, tau, maskable, quantity, equation, estimate, standard_error, low, high (95%). The
        intervals are over draws of masks for given sequences, but those of Eq. 5 over the sequences.
    """
    variances = [each.variances for each in measured]
    taus, sizes = zip(*counts, strict=True)
    taken = {"sequence": f"mean of {len(indices)}", "tau": np.mean(taus), "maskable": np.mean(sizes)}
    additive = float(np.mean([without_replacement_ratio(m, tau, num_masks) for tau, m in counts]))
    rows = _law_rows(taken, _average(variances), num_masks, additive)
    if len(measured) > 2:
        rows += _batch_rows(taken, measured, num_masks, num_replicates, rng)
    for index, (tau, m), each in zip(indices, counts, variances, strict=True):
        taken = {"sequence": index, "tau": tau, "maskable": m}
        rows += _law_rows(taken, each, num_masks, without_replacement_ratio(m, tau, num_masks))
    return rows


def covariance_rows(
    name: str, num_masked: int, distances: Sequence[int], values_HSQ: npt.NDArray[np.float64]
) -> list[Row]:
    """Tabulate ``measure_covariance``, a row for each distance and one for independent masks.

    Intervals are over pairs of masks for given sequences; ``relative`` is the ratio to distance 0.
    """
    curve = covariance_curve([*distances, -1], values_HSQ)
    labels = [*distances, "independent"]
    return [
        {
            "checkpoint": name,
            "tau": num_masked,
            "distance": label,
            "estimate": mean,
            "standard_error": error,
            "low": mean - half,
            "high": mean + half,
            "relative": mean / curve.means_H[0],
            "pairs": values_HSQ[0].size,
        }
        for label, mean, error, half in zip(
            labels, curve.means_H, curve.standard_errors_H, curve.half_widths_H, strict=True
        )
    ]


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


def format_rows(rows: Iterable[Row]) -> str:
    """Return aligned columns; of a variance table only the rows of the mean and each sequence's ratio."""
    shown = [
        row
        for row in rows
        if str(row.get("sequence", "mean")).startswith("mean") or row["quantity"] == "ratio"
    ]
    cells = [list(shown[0]), *([_text(value) for value in row.values()] for row in shown)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def _law_rows(taken: Row, variances: MaskVariances, num_masks: int, additive_ratio: float) -> list[Row]:
    plain, disjoint = variances.independent, variances.disjoint
    quantities: list[tuple[str, str, Resampled]] = [
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
    ]
    rows = [
        {**taken, "quantity": name, "equation": equation, **interval(values)._asdict()}
        for name, equation, values in quantities
    ]
    # A number for comparison, not a measurement: it has no interval.
    reference = {"estimate": additive_ratio, "standard_error": "", "low": "", "high": ""}
    rows.append(
        {**taken, "quantity": "ratio if g were additive", "equation": "(m-K tau)/(m-tau)", **reference}
    )
    return rows


def _batch_rows(
    taken: Row,
    measured: Sequence[SequenceVariances],
    num_masks: int,
    num_replicates: int,
    rng: np.random.Generator,
) -> list[Row]:
    means_SP = torch.stack([each.mean_P for each in measured])
    batches = batch_variances(
        np.array([each.variances.independent.mask_variance[0] for each in measured]),
        np.array([each.variances.disjoint.variance[0] for each in measured]),
        np.array(
            [
                (each.variances.independent.mean_norm[0] + each.variances.disjoint.mean_norm[0]) / 2
                for each in measured
            ]
        ),
        (means_SP @ means_SP.t()).double().cpu().numpy(),
        num_masks=num_masks,
        num_replicates=num_replicates,
        rng=rng,
    )
    quantities = [
        (f"rows x {term}: {name}", values)
        for name, batch in batches.items()
        for term, values in (
            ("mask term", batch.mask_term),
            ("sentence term", batch.sentence_term),
            ("total", batch.mask_term + batch.sentence_term),
        )
    ]
    plain, disjoint = batches["one_mask"], batches["disjoint"]
    difference = disjoint.mask_term + disjoint.sentence_term - plain.mask_term - plain.sentence_term
    quantities.append(("rows x total: disjoint - one_mask", difference))
    return [
        {**taken, "quantity": name, "equation": "Eq. 5", **interval(values)._asdict()}
        for name, values in quantities
    ]


def _average(variances: Sequence[MaskVariances]) -> MaskVariances:
    """Average over sequences: draws of different sequences are independent, so are their replicates."""

    def mean(parts: Sequence[Any]) -> Any:
        first = parts[0]
        if isinstance(first, np.ndarray):
            return np.mean(parts, axis=0)
        return type(first)(*(mean(same) for same in zip(*parts, strict=True)))

    average: MaskVariances = mean(variances)
    return average


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
