"""The measurement of laws of masks as rows: one quantity a row, with the equation it estimates.

Intervals (95%) of mask variances, ratios and biases are over draws of masks for the given sequences; those of
the sentence variance, of totals and of what is said of the laws themselves are over the sequences.
Shapes: S sequences, T tokens; resampled arrays [1 + R] as in resampling.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fairseq_masking.measure.gradient_variance.proposal_variance import (
    UNIFORM,
    EstimatorVariance,
    Key,
    SequenceEstimators,
)
from fairseq_masking.measure.gradient_variance.resampling import interval, resampling_weights, weighted_mean
from fairseq_masking.measure.gradient_variance.sentence_variance import sentence_variance
from fairseq_masking.methods.map_net.ragged import rank_correlation

__all__ = ["estimator_rows", "estimator_table", "law_rows", "law_table"]

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

RATIO = "mask variance / uniform's"
DIRECT_RATIO = "mask variance / uniform's, direct"
SMALLEST_RATIO = "smallest mask variance / uniform's"
RELATIVE_BIAS = "bias / ||gbar||^2"
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


@np.errstate(divide="ignore", invalid="ignore")  # a resample of copies of one draw has no variance
def estimator_rows(
    indices: Sequence[int],
    num_masked: int,
    measured: Sequence[SequenceEstimators],
    num_replicates: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Tabulate ``measure_proposals``: the mean over the sequences, then each sequence's ratios.

    Returns:
        Rows with num_masked, sequence, law, weight, quantity, equation, estimate, standard_error, low, high.
    """
    rows: list[Row] = []
    taken: Row = {"num_masked": num_masked, "sequence": f"mean of {len(indices)}"}
    counts = resampling_weights(len(measured), num_replicates, rng)
    uniform, sentences = _average(measured, UNIFORM), _sentence_variance(measured, UNIFORM, counts)
    uniform_total = weighted_mean(_estimates(measured, UNIFORM), counts) + sentences
    for key in measured[0].variances:
        found = _average(measured, key)
        rows += _rows_of(taken, key, _mask_quantities(found, uniform))
        if len(measured) > 2:
            own_sentences = _sentence_variance(measured, key, counts)
            total = weighted_mean(_estimates(measured, key), counts) + own_sentences
            quantities = [
                ("sentence variance", "Eq. 4, 6", own_sentences),
                ("sentence variance / uniform's", "Eq. 6", own_sentences / sentences),
                ("total variance", "Eq. 3-6", total),
                ("total variance / uniform's", "Eq. 3-6", total / uniform_total),
            ]
            rows += _rows_of(taken, key, quantities)
    quantities = [
        ("smallest mask variance", "Thm. 2", uniform.smallest),
        (SMALLEST_RATIO, "Thm. 2", uniform.smallest / uniform.mask_variance),
    ]
    rows += _rows_of(taken, ("any", "set"), quantities)
    for index, each in zip(indices, measured, strict=True):
        base = each.variances[UNIFORM]
        for key, found in each.variances.items():
            quantities = [
                ("mask variance", "Eq. 3, 6", found.mask_variance),
                (RATIO, "Eq. 6", found.mask_variance / base.mask_variance),
            ]
            rows += _rows_of({**taken, "sequence": index}, key, quantities)
    return rows


def law_rows(
    indices: Sequence[int],
    num_masked: int,
    laws: Sequence[Mapping[str, Floats]],
    num_replicates: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Tabulate the laws themselves: entropy as a share of the uniform one's, rank correlation of each two.

    Args:
        laws: for each sequence log p ``[T]`` by name.
    """
    counts = resampling_weights(len(laws), num_replicates, rng)
    taken = {"num_masked": num_masked, "sequence": f"mean of {len(indices)}"}
    rows: list[Row] = []
    for name in laws[0]:
        entropies = np.array([_relative_entropy(each[name]) for each in laws])
        quantities = [("entropy / log n", "", weighted_mean(entropies, counts))]
        for other in laws[0]:
            if other != name:
                ranks = np.array([_rank_correlation(each[name], each[other]) for each in laws])
                quantities.append((f"rank correlation with {other}", "", weighted_mean(ranks, counts)))
        rows += _rows_of(taken, (name, ""), quantities)
    return rows


def estimator_table(rows: Sequence[Row], num_masked: int) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of a line for each law and weight, and one for Theorem 2's bound."""
    chosen = [
        row
        for row in rows
        if row["num_masked"] == num_masked and str(row["sequence"]).startswith("mean") and row["weight"]
    ]
    by_key: dict[Key, dict[str, str]] = {}
    for row in chosen:
        by_key.setdefault((row["law"], row["weight"]), {})[row["quantity"]] = _with_interval(row)
    bound = by_key.pop(("any", "set"))
    blank = [""] * len(_COLUMNS)
    cells = [[*key, *(found.get(name, "") for name in _COLUMNS.values())] for key, found in by_key.items()]
    cells.append(
        ["any law (Thm. 2)", "set", bound["smallest mask variance"], bound[SMALLEST_RATIO], *blank[2:]]
    )
    return ["law", "weight", *_COLUMNS], cells


def law_table(rows: Sequence[Row], num_masked: int) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of a line for each law: entropy and rank correlations."""
    chosen = [row for row in rows if row["num_masked"] == num_masked and not row["weight"]]
    names = list(dict.fromkeys(row["law"] for row in chosen))
    found = {(row["law"], row["quantity"]): _with_interval(row) for row in chosen}
    header = ["law", "entropy / log n", *(f"rank corr. with {name}" for name in names[1:])]
    cells = [
        [
            name,
            found[name, "entropy / log n"],
            *(found.get((name, f"rank correlation with {other}"), "") for other in names[1:]),
        ]
        for name in names
    ]
    return header, cells


def _mask_quantities(found: EstimatorVariance, uniform: EstimatorVariance) -> list[tuple[str, str, Floats]]:
    gbar_norm, base = uniform.mean_norm, uniform.mask_variance
    # What is known of an unbiased weight need not be estimated from few effective draws.
    signal = gbar_norm if found.is_unbiased else found.mean_norm
    bias = np.zeros_like(gbar_norm) if found.is_unbiased else found.bias
    mean_weight = np.ones_like(gbar_norm) if found.is_unbiased else found.mean_weight
    return [
        ("mask variance", "Eq. 3, 6", found.mask_variance),
        (RATIO, "Eq. 6", found.mask_variance / base),
        ("mask variance, direct", "Eq. 3, 6", found.direct),
        (DIRECT_RATIO, "Eq. 6", found.direct / base),
        ("mean square error / uniform's", "Eq. 6", (found.mask_variance + bias) / base),
        (
            "mask variance / ||E[w g]||^2, / uniform's",
            "Eq. 6",
            found.mask_variance / signal / (base / gbar_norm),
        ),
        ("||E[w g]||^2", "Eq. 5", found.mean_norm),
        ("bias", "Eq. 5", found.bias),
        (RELATIVE_BIAS, "Eq. 5", found.bias / gbar_norm),
        ("cosine of E[w g] and gbar", "Eq. 5", found.cross / np.sqrt(np.abs(found.mean_norm * gbar_norm))),
        ("mean weight", "Eq. 5", found.mean_weight),
        ("effective share of draws", "Eq. 5", mean_weight**2 / found.mean_square_weight),
    ]


def _sentence_variance(measured: Sequence[SequenceEstimators], key: Key, counts: Floats) -> Floats:
    means_SP = torch.stack([each.means_P[key] for each in measured])
    norms_S = np.array([each.variances[key].mean_norm[0] for each in measured])
    return sentence_variance(norms_S, (means_SP @ means_SP.t()).double().cpu().numpy(), counts)


def _estimates(measured: Sequence[SequenceEstimators], key: Key) -> Floats:
    return np.array([each.variances[key].mask_variance[0] for each in measured])


def _average(measured: Sequence[SequenceEstimators], key: Key) -> EstimatorVariance:
    """Average over sequences: draws of different sequences are independent, so are their replicates."""
    parts = zip(*(each.variances[key] for each in measured), strict=True)
    return EstimatorVariance(*(np.mean(same, axis=0) for same in parts))


def _rows_of(taken: Row, key: Key, quantities: Sequence[tuple[str, str, Floats]]) -> list[Row]:
    law, weight = key
    return [
        {
            **taken,
            "law": law,
            "weight": weight,
            "quantity": name,
            "equation": equation,
            **interval(values)._asdict(),
        }
        for name, equation, values in quantities
    ]


def _relative_entropy(log_p_T: Floats) -> float:
    log_p_n = log_p_T[log_p_T > -np.inf]
    return float(-(np.exp(log_p_n) * log_p_n).sum() / np.log(len(log_p_n)))


def _rank_correlation(left_T: Floats, right_T: Floats) -> float:
    kept_T = left_T > -np.inf
    left, right = (torch.from_numpy(values[kept_T])[None] for values in (left_T, right_T))
    correlation, defined = rank_correlation(left, right, torch.ones_like(left, dtype=torch.bool))
    return float(correlation[0]) if bool(defined[0]) else float("nan")


def _with_interval(row: Row) -> str:
    if row["estimate"] > _BEYOND:  # mask_laws.py ends weights there
        return f"beyond {_BEYOND:.0e}"
    if row["low"] == row["high"]:
        return f"{row['estimate']:.3g}"
    return f"{row['estimate']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
