"""Theorem 1 of 2010.06040: K disjoint masks of a sequence against K independent ones.

    Eq. 6   g(m_1, ..., m_K) = 1/K sum_k g(m_k)
    Eq. 7   Var(g(m_1, ..., m_K)) = 1/K Var(g(m_1)) + (1 - 1/K) Cov(g(m_1), g(m_2))
    Eq. 8   Cov(g(m_1), g(m_2)) = E[(g(m_1) - gbar)^T (g(m_2) - gbar)]
    Eq. 9   gbar = E[g(m)], the same for both laws (Lemma 2)

Eq. 5 at equal rows (spec/fully_explored_mlm.md, "Same compute"): of R rows of a batch, K masks of a sequence
leave R / K sequences:

    one mask of R sequences         Var(g(m_1)) / R                        + Var_x(gbar) / R
    K independent masks of R / K    Var(g(m_1)) / R                        + K Var_x(gbar) / R
    K disjoint masks of R / K       K Var(g(m_1, ..., m_K)) / R, Eq. 7     + K Var_x(gbar) / R

The first column falls with disjoint masks; the second rises with K, as there are 1/K as many sequences. A
claim about the total has to hold the one against the other.
Shapes: D draws of K masks each, S sequences, P parameters. "Resampled" arrays: see statistics.py.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fairseq_masking.figures.figure import errorbars, new_figure, save_figure
from fairseq_masking.measure.gradient_variance.draws import FixedSequence
from fairseq_masking.measure.gradient_variance.gradients import gram_matrix
from fairseq_masking.measure.gradient_variance.measurement import Measurement, choose, load, shown
from fairseq_masking.measure.gradient_variance.statistics import (
    Interval,
    LawMoments,
    LawVariances,
    Quantity,
    Resampled,
    Row,
    average,
    inner_products_of,
    law_variances,
    resampling_weights,
    row_table,
    rows_of,
    sentence_variance,
    weighted_mean,
)

__all__ = ["batch_variances", "compare_laws", "measure_splits", "run", "split_rows", "without_replacement_ratio"]

ADDITIVE_RATIO = "ratio if g were additive"
Floats = npt.NDArray[np.float64]


def run(args: argparse.Namespace) -> tuple[list[Row], Callable[[Path], None]]:
    """Measure by the options of ``cli/measure_variance.py``, print the table; return rows, and what draws them."""
    (path,), num_masks = args.checkpoint, args.mask_splits
    hub, measurement = load(args, path, unit=args.mask_unit, num_splits=num_masks)
    sequences = choose(args, hub, measurement)
    sizes = {"num_draws": args.draws, "num_replicates": args.replicates, "num_kept": len(sequences)}
    measured = [measure_splits(measurement, sequence, **sizes) for sequence in shown(sequences)]
    rows = split_rows(sequences, measured, args.replicates, np.random.default_rng(args.seed))
    print(f"{path}: {len(sequences)} sequences, {args.draws} draws of {num_masks} masks a law")
    print(row_table(rows))
    return rows, partial(_plot, rows, title=args.note or str(path))


class MaskVariances(NamedTuple):
    """Both laws on one sequence, and Eq. 7 for each from parts that the left side does not share.

    With all parts from the same draws Eq. 7 is an identity of the estimators and would show nothing. Here
    the right side takes Var(g(m_1)) and gbar from the independent law's draws; of the disjoint law it takes
    only the products inside a draw, so it holds only as far as Lemma 2 and Lemma 3 do. For the independent
    law the right side has covariance 0.
    """

    independent: LawVariances
    disjoint: LawVariances
    independent_by_eq7: Resampled
    disjoint_by_eq7: Resampled


class SequenceVariances(NamedTuple):
    """``variances`` of one sequence, and ``mean_P``, the mean of all its gradients (Eq. 9)."""

    variances: MaskVariances
    mean_P: Tensor


def measure_splits(
    measurement: Measurement, sequence: FixedSequence, *, num_draws: int, num_replicates: int, num_kept: int = 0
) -> SequenceVariances:
    """Compare disjoint and independent masks of a sequence: D draws of K masks for each, 2 D K gradients.

    Args:
        num_draws: D, at least 3 (two give no spread to resample).
        num_kept: mean gradients that the caller keeps, counted against the memory.
    """
    rows, num_masks = measurement.rows_in_memory(num_kept), sequence.config.num_splits
    # The epochs of the independent masks are streams that the disjoint ones have not used.
    independent = sequence.independent_masks(num_draws * num_masks, first_epoch=num_draws + 1)
    grams = [
        gram_matrix(measurement.gradients(sequence.tokens_T, masks), len(masks.columns), rows)
        for masks in (independent, sequence.disjoint_masks(num_draws))
    ]
    moments = [LawMoments.from_gram(gram.inner_MM, num_masks) for gram in grams]
    rng = np.random.default_rng((sequence.config.seed, sequence.index))
    variances = compare_laws(*moments, num_replicates=num_replicates, rng=rng)
    return SequenceVariances(variances, (grams[0].mean_P + grams[1].mean_P) / 2)


def compare_laws(
    independent: LawMoments, disjoint: LawMoments, *, num_replicates: int, rng: np.random.Generator
) -> MaskVariances:
    """Estimate both laws of one sequence; draws are resampled, of each law by itself."""
    assert independent.num_masks == disjoint.num_masks
    num_masks = independent.num_masks
    weights = resampling_weights(len(independent.squares_D), num_replicates, rng)
    disjoint_weights = resampling_weights(len(disjoint.squares_D), num_replicates, rng)
    plain = law_variances(independent, weights)
    covariance = weighted_mean(disjoint.products_D, disjoint_weights) - plain.mean_norm  # Eq. 8
    return MaskVariances(
        independent=plain,
        disjoint=law_variances(disjoint, disjoint_weights),
        independent_by_eq7=plain.mask_variance / num_masks,
        disjoint_by_eq7=plain.mask_variance / num_masks + (1 - 1 / num_masks) * covariance,
    )


def without_replacement_ratio(num_maskable: int, num_masked: int, num_masks: int) -> float:
    """Return the variance ratio of disjoint to independent masks if g(m) were a sum over masked positions.

    If a position's gradient did not depend on what else is masked, K disjoint masks would be one sample of
    K * tau positions without replacement: (m - K tau) / (m - tau). Not in the paper; measured ratios above it
    show how much the context matters.
    """
    return (num_maskable - num_masks * num_masked) / (num_maskable - num_masked)


class BatchVariance(NamedTuple):
    """The two terms of Eq. 5 times R, the number of rows; resampled over sequences."""

    mask_term: Resampled
    sentence_term: Resampled


def batch_variances(
    mask_variances_S: Floats,
    disjoint_variances_S: Floats,
    mean_norms_S: Floats,
    inner_SS: Floats,
    weights: Floats,
    *,
    num_masks: int,
) -> dict[str, BatchVariance]:
    """Estimate both terms for the three ways to fill a batch.

    Args:
        mask_variances_S: Var(g(m_1)) of each sequence.
        disjoint_variances_S: variance of the gradient of K disjoint masks of each sequence.
        mean_norms_S: see ``sentence_variance``, as are ``inner_SS`` and ``weights``.

    Returns:
        By name: ``one_mask``, ``independent``, ``disjoint``.
    """
    sentences = sentence_variance(mean_norms_S, inner_SS, weights)
    mask_term = weighted_mean(mask_variances_S, weights)
    disjoint_term = num_masks * weighted_mean(disjoint_variances_S, weights)
    return {
        "one_mask": BatchVariance(mask_term, sentences),
        "independent": BatchVariance(mask_term, num_masks * sentences),
        "disjoint": BatchVariance(disjoint_term, num_masks * sentences),
    }


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
    rows = rows_of(of, _split_quantities(average(variances), float(np.mean(additive))))
    if len(measured) > 2:
        counts = resampling_weights(len(measured), num_replicates, rng)
        rows += rows_of(of, _batch_quantities(measured, num_masks, counts))
    for sequence, (tau, m), each, ratio in zip(sequences, sizes, variances, additive, strict=True):
        of = {"sequence": sequence.index, "tau": tau, "maskable": m}
        rows += rows_of(of, _split_quantities(each, ratio))
    return rows


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
        inner_products_of([each.mean_P for each in measured]),
        counts,
        num_masks=num_masks,
    )
    quantities: list[Quantity] = [
        (f"rows x {term}: {name}", "Eq. 5", values)
        for name, batch in batches.items()
        for term, values in zip(("mask term", "sentence term", "total"), (*batch, np.add(*batch)), strict=True)
    ]
    difference = np.add(*batches["disjoint"]) - np.add(*batches["one_mask"])
    return [*quantities, ("rows x total: disjoint - one_mask", "Eq. 5", difference)]


def _plot(rows: Sequence[Row], path: Path, *, title: str = "") -> None:
    """Draw the variance of disjoint masks over that of independent ones, of each sequence and their mean.

    Args:
        rows: of ``split_rows``.
    """
    ratios = [row for row in rows if row["quantity"] == "ratio"]
    additive = next(row["estimate"] for row in rows if row["quantity"] == ADDITIVE_RATIO)  # the mean's
    figure, ((panel,),) = new_figure(1, 1, (7, 1.5 + 0.3 * len(ratios)))
    panel.axvline(1, color="0.2", linewidth=1)
    panel.axvline(additive, color="#2a8a4a", linestyle="--", label=ADDITIVE_RATIO)
    errorbars(panel, ratios, range(len(ratios)), color="#1b6ca8")
    panel.set(xlabel="variance of disjoint / independent masks", ylabel="sequence")
    panel.set(yticks=range(len(ratios)), yticklabels=[row["sequence"] for row in ratios])
    panel.invert_yaxis()
    panel.legend(fontsize=8)
    save_figure(figure, path, title=title, dpi=150)
