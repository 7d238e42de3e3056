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
Shapes: D draws of K masks each, S sequences. "Resampled" arrays: see statistics.py.
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
from fairseq_masking.measure.gradient_variance import statistics
from fairseq_masking.measure.gradient_variance.draws import FixedSequence
from fairseq_masking.measure.gradient_variance.gradients import Measurement, choose, gram_matrix, load, shown
from fairseq_masking.measure.gradient_variance.statistics import Floats, LawMoments, Quantity, Resampled, Row

__all__ = ["batch_variances", "compare_laws", "measure_splits", "run", "without_replacement_ratio"]

ADDITIVE_RATIO = "ratio if g were additive"


def run(args: argparse.Namespace) -> tuple[list[Row], Callable[[Path], None]]:
    """Measure by the options of ``cli/measure_variance.py``, print the table; return rows, and what draws them."""
    (path,), num_masks = args.checkpoint, args.mask_splits
    hub, measurement = load(args, path, unit=args.mask_unit, num_splits=num_masks)
    sequences = choose(args, hub, measurement)
    sizes = {"num_draws": args.draws, "num_replicates": args.replicates, "num_kept": len(sequences)}
    measured = [measure_splits(measurement, sequence, **sizes) for sequence in shown(sequences)]
    counts = statistics.resampling_weights(len(measured), args.replicates, np.random.default_rng(args.seed))
    rows = _rows(sequences, measured, counts)
    print(f"{path}: {len(sequences)} sequences, {args.draws} draws of {num_masks} masks a law")
    print(statistics.row_table(rows))
    return rows, partial(_plot, rows, title=args.note or str(path))


class MaskVariances(NamedTuple):
    """Both laws on one sequence, and Eq. 7 for each from parts that the left side does not share.

    With all parts from the same draws Eq. 7 is an identity of the estimators and would show nothing. Here
    the right side takes Var(g(m_1)) and gbar from the independent law's draws; of the disjoint law it takes
    only the products inside a draw, so it holds only as far as Lemma 2 and Lemma 3 do. For the independent
    law the right side has covariance 0.
    """

    independent: statistics.LawVariances
    disjoint: statistics.LawVariances
    independent_by_eq7: Resampled
    disjoint_by_eq7: Resampled


def measure_splits(
    measurement: Measurement, sequence: FixedSequence, *, num_draws: int, num_replicates: int, num_kept: int = 0
) -> tuple[MaskVariances, Tensor]:
    """Compare disjoint and independent masks of a sequence: D draws of K masks for each, 2 D K gradients.

    D is at least 3 (two give no spread to resample); the caller keeps ``num_kept`` means of all gradients (Eq. 9).
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
    variances = compare_laws(*moments, num_masks=num_masks, num_replicates=num_replicates, rng=rng)
    return variances, (grams[0].mean_P + grams[1].mean_P) / 2


def compare_laws(
    independent: LawMoments, disjoint: LawMoments, *, num_masks: int, num_replicates: int, rng: np.random.Generator
) -> MaskVariances:
    """Estimate both laws of one sequence; draws are resampled, of each law by itself."""
    weights, disjoint_weights = (
        statistics.resampling_weights(len(law.squares_D), num_replicates, rng) for law in (independent, disjoint)
    )
    plain = statistics.law_variances(independent, weights)
    covariance = statistics.weighted_mean(disjoint.products_D, disjoint_weights) - plain.mean_norm  # Eq. 8
    by_eq7 = plain.mask_variance / num_masks
    return MaskVariances(
        plain, statistics.law_variances(disjoint, disjoint_weights), by_eq7, by_eq7 + (1 - 1 / num_masks) * covariance
    )


def without_replacement_ratio(num_maskable: int, num_masked: int, num_masks: int) -> float:
    """Return the variance ratio of disjoint to independent masks if g(m) were a sum over masked positions.

    If a position's gradient did not depend on what else is masked, K disjoint masks would be one sample of
    K * tau positions without replacement: (m - K tau) / (m - tau). Not in the paper; measured ratios above it
    show how much the context matters.
    """
    return (num_maskable - num_masks * num_masked) / (num_maskable - num_masked)


def batch_variances(
    plain_S: npt.ArrayLike, disjoint_S: npt.ArrayLike, sentences: Resampled, weights: Floats, *, num_masks: int
) -> dict[str, tuple[Resampled, Resampled]]:
    """Return mask term and sentence term of Eq. 5, times R, for the three ways to fill a batch.

    ``plain_S`` is Var(g(m_1)) of each sequence, ``disjoint_S`` that of the gradient of K disjoint masks, ``sentences``
    the ``sentence_variance`` by the same ``weights``.
    """
    mask_term = statistics.weighted_mean(plain_S, weights)
    disjoint_term = num_masks * statistics.weighted_mean(disjoint_S, weights)
    return {
        "one_mask": (mask_term, sentences),
        "independent": (mask_term, num_masks * sentences),
        "disjoint": (disjoint_term, num_masks * sentences),
    }


def _rows(
    sequences: Sequence[FixedSequence], measured: Sequence[tuple[MaskVariances, Tensor]], counts: Floats
) -> list[Row]:
    """First the mean over the sequences, Eq. 5, then each sequence."""
    num_masks, (variances, means_P) = sequences[0].config.num_splits, zip(*measured, strict=True)
    of = [{"sequence": each.index, "tau": each.tau, "maskable": len(each.columns_m)} for each in sequences]
    additive = [without_replacement_ratio(each["maskable"], each["tau"], num_masks) for each in of]
    means = {name: np.mean([each[name] for each in of]) for name in ("tau", "maskable")}
    of_mean = {"sequence": f"mean of {len(sequences)}", **means}
    rows = statistics.rows_of(of_mean, _split_quantities(statistics.average(variances), float(np.mean(additive))))
    if len(measured) > 2:
        rows += statistics.rows_of(of_mean, _batch_quantities(variances, means_P, num_masks, counts))
    for each, found, ratio in zip(of, variances, additive, strict=True):
        rows += statistics.rows_of(each, _split_quantities(found, ratio))
    return rows


def _split_quantities(variances: MaskVariances, additive_ratio: float) -> list[Quantity]:
    plain, disjoint, plain_by_eq7, disjoint_by_eq7 = variances
    return [
        ("ratio", "Var disjoint / independent", disjoint.variance / plain.variance),
        ("ratio by Eq. 7", "Eq. 7 / Eq. 7", disjoint_by_eq7 / plain_by_eq7),
        ("independent: Var of K masks", "Eq. 6", plain.variance),
        ("independent: by Eq. 7", "Eq. 7", plain_by_eq7),
        ("independent: Eq. 7 - measured", "Eq. 7", plain_by_eq7 - plain.variance),
        ("independent: Var(g(m1))", "Eq. 8", plain.mask_variance),
        ("independent: Cov(g(m1), g(m2))", "Eq. 8", plain.mask_covariance),
        ("disjoint: Var of K masks", "Eq. 6, 10", disjoint.variance),
        ("disjoint: by Eq. 7", "Eq. 7", disjoint_by_eq7),
        ("disjoint: Eq. 7 - measured", "Lemma 3", disjoint_by_eq7 - disjoint.variance),
        ("disjoint: Var(g(m1))", "Eq. 8", disjoint.mask_variance),
        ("disjoint: Cov(g(m1), g(m2))", "Eq. 8, 10", disjoint.mask_covariance),
        ("disjoint: correlation", "Cov / Var", disjoint.mask_covariance / plain.mask_variance),
        ("||gbar||^2, independent", "Eq. 9", plain.mean_norm),
        ("||gbar||^2, disjoint", "Lemma 2", disjoint.mean_norm),
        (ADDITIVE_RATIO, "(m-K tau)/(m-tau)", statistics.Interval(additive_ratio)),  # for comparison
    ]


def _batch_quantities(
    variances: Sequence[MaskVariances], means_P: Sequence[Tensor], num_masks: int, counts: Floats
) -> list[Quantity]:
    mean_norms_S = [(each.independent.mean_norm[0] + each.disjoint.mean_norm[0]) / 2 for each in variances]
    batches = batch_variances(
        [each.independent.mask_variance[0] for each in variances],
        [each.disjoint.variance[0] for each in variances],
        statistics.sentence_variance(mean_norms_S, statistics.inner_products_of(means_P), counts),
        counts,
        num_masks=num_masks,
    )
    quantities: list[Quantity] = [
        (f"rows x {term}: {name}", "Eq. 5", values)
        for name, (mask, sentence) in batches.items()
        for term, values in (("mask term", mask), ("sentence term", sentence), ("total", mask + sentence))
    ]
    difference = np.add(*batches["disjoint"]) - np.add(*batches["one_mask"])
    return [*quantities, ("rows x total: disjoint - one_mask", "Eq. 5", difference)]


def _plot(rows: Sequence[Row], path: Path, *, title: str = "") -> None:
    """Draw the variance of disjoint masks over that of independent ones, of each sequence and their mean."""
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
