"""What laws of masks do to the gradient's variance, as rows, as two tables and as a figure.

Shapes: S sequences, T tokens; resampled arrays [1 + R] as in statistics.py.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import entropy, spearmanr

from fairseq_masking.figures.figure import errorbars, new_figure, save_figure
from fairseq_masking.figures.tables import format_table
from fairseq_masking.masking import num_masked
from fairseq_masking.measure.gradient_variance.draws import FixedSequence
from fairseq_masking.measure.gradient_variance.estimators import (
    UNIFORM,
    EstimatorVariance,
    Key,
    SequenceEstimators,
    measure_laws,
    measured_laws,
)
from fairseq_masking.measure.gradient_variance.laws import WEIGHTINGS
from fairseq_masking.measure.gradient_variance.measurement import choose, load, shown
from fairseq_masking.measure.gradient_variance.statistics import (
    Quantity,
    Resampled,
    Row,
    average,
    inner_products_of,
    resampling_weights,
    rows_of,
    sentence_variance,
    weighted_mean,
)
from fairseq_masking.measure.sequences import sequence_length

__all__ = ["estimator_rows", "estimator_table", "law_rows", "law_table", "run"]

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
_BOUND = {"smallest mask variance": "mask variance", SMALLEST_RATIO: RATIO}  # in those columns
# What lies beyond would leave the rest of the figure in a corner: it is drawn at the edge.
_NEAREST, _FARTHEST = 0.03, 300.0
_UNBIASED = ("set", "ordered")
_COLOURS = {"set": "#1b6ca8", "ordered": "#7a3e9d", "clipped": "#c8501e", "none": "#555555"}
_MEANINGS = {
    "set": "p_rand / p_prop (Eq. 5)",
    "ordered": "the same for ordered draws",
    "clipped": "the paper's, clipped: biased",
    "none": "no weight: biased",
}


def run(args: argparse.Namespace) -> tuple[list[Row], Callable[[Path], None]]:
    """Measure by the options of ``cli/measure_variance.py``; return rows, and what draws them.

    Prints two tables for each number of masked positions.
    """
    (path,) = args.checkpoint
    hub, measurement = load(args, path)
    size = sequence_length(hub, args.tokens_per_sample) - 2
    counts = sorted(set(args.num_masks or [num_masked(size, size, args.mask_prob)]))
    sequences = choose(args, hub, measurement, more_than=counts[-1])
    trained_with = getattr(getattr(hub.cfg, "criterion", None), "importance_clip", None)
    clip = float(next(v for v in (args.importance_clip, trained_with, 0.2) if v is not None))
    rounds = {"oracle_rounds": args.oracle_rounds, "gradient_rounds": args.gradient_rounds}
    if not hasattr(hub.model, "propose"):
        print(f"{path} has no proposal network: uniform masks and oracles only")
    rows: list[Row] = []
    for count in counts:
        started = time.perf_counter()
        others = [measured_laws(measurement, sequence, count, **rounds) for sequence in shown(sequences, "oracles")]
        num_kept = (1 + len(others[0]) * len(WEIGHTINGS)) * len(sequences)
        sizes = {"num_masked": count, "num_draws": args.draws, "num_replicates": args.replicates, "num_kept": num_kept}
        measured = [
            measure_laws(measurement, sequence, its_laws, clip=clip, **sizes)
            for sequence, its_laws in zip(shown(sequences, f"k = {count}"), others, strict=True)
        ]
        of = {"num_masked": count, "sequence": f"mean of {len(sequences)}"}
        rng = np.random.default_rng(args.seed)
        rows += estimator_rows(of, sequences, measured, args.replicates, rng)
        rows += law_rows(of, others, args.replicates, rng)
        print(estimator_table(rows, count), law_table(rows, count), sep="\n\n", end="\n\n")
        print(
            f"k = {count} of {size} tokens, {len(sequences)} sequences, {args.draws} draws a law,"
            f" clip {clip:g}, {time.perf_counter() - started:.0f} s\n"
        )
    return rows, partial(_plot, rows, title=args.note or str(path))


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
    uniform = means[UNIFORM]
    uniform_sentences, uniform_total = _terms(measured, UNIFORM, counts)
    rows: list[Row] = []
    for key, found in means.items():
        quantities = _mask_quantities(found, uniform)
        if len(measured) > 2:
            sentences, total = _terms(measured, key, counts)
            quantities += [
                ("sentence variance", "Eq. 4, 6", sentences),
                ("sentence variance / uniform's", "Eq. 6", sentences / uniform_sentences),
                ("total variance", "Eq. 3-6", total),
                ("total variance / uniform's", "Eq. 3-6", total / uniform_total),
            ]
        rows += rows_of(_of_law(of, *key), quantities)
    bounds: list[Quantity] = [
        ("smallest mask variance", "Thm. 2", uniform.smallest),
        (SMALLEST_RATIO, "Thm. 2", uniform.smallest / uniform.mask_variance),
    ]
    rows += rows_of(_of_law(of, "any", "set"), bounds)
    for sequence, each in zip(sequences, measured, strict=True):
        for key, found in each.variances.items():
            quantities = _mask_quantities(found, each.variances[UNIFORM])[:2]  # itself and its ratio
            rows += rows_of(_of_law({**of, "sequence": sequence.index}, *key), quantities)
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
        log_p = [each[name][each[name] > -np.inf] for each in laws]
        found = {"entropy / log n": [entropy(np.exp(own_n)) / np.log(len(own_n)) for own_n in log_p]}
        for other in laws[0]:
            if other != name:
                theirs = [each[other][each[name] > -np.inf] for each in laws]
                ranked = [spearmanr(*pair).statistic for pair in zip(log_p, theirs, strict=True)]
                found[f"rank correlation with {other}"] = ranked
        quantities = [(quantity, "", weighted_mean(np.array(values), counts)) for quantity, values in found.items()]
        rows += rows_of(_of_law(of, name, ""), quantities)
    return rows


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


def _of_law(of: Row, law: str, weight: str) -> Row:
    return {**of, "law": law, "weight": weight}


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


def _terms(measured: Sequence[SequenceEstimators], key: Key, counts: Floats) -> tuple[Resampled, Resampled]:
    """Sentence variance and total variance of a law with a weight, resampled over the sequences."""
    variances = [each.variances[key] for each in measured]
    norms_S = np.array([each.mean_norm[0] for each in variances])
    mask_variances_S = np.array([each.mask_variance[0] for each in variances])
    sentences = sentence_variance(norms_S, inner_products_of([each.means_P[key] for each in measured]), counts)
    return sentences, weighted_mean(mask_variances_S, counts) + sentences


def _plot(rows: Sequence[Row], path: Path, *, title: str = "") -> None:
    """Draw mask variance over the uniform law's, and bias, a line of dots for each law: 95% intervals.

    Hollow dots are what the law's own draws say of the unbiased weights.

    Args:
        rows: of ``estimator_rows``, for one or several numbers of masked positions (a row of panels each).
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    means = [row for row in rows if str(row["sequence"]).startswith("mean") and row["weight"]]
    counts = sorted({row["num_masked"] for row in means})
    laws = list(dict.fromkeys(row["law"] for row in means if row["law"] not in ("any", "uniform")))
    size = (11, 1.5 + (0.6 + 0.6 * len(laws)) * len(counts))
    figure, panels = new_figure(len(counts), 2, size, sharey=True, sharex="col")
    for (left, right), count in zip(panels, counts, strict=True):
        here = [row for row in means if row["num_masked"] == count]
        (bound,) = (row["estimate"] for row in here if row["quantity"] == SMALLEST_RATIO)
        left.set_xscale("log")
        left.axvline(1, color="0.2", linewidth=1, label="uniform masks")
        left.axvline(bound, color="#2a8a4a", linestyle="--", linewidth=1.2, label="least of any law (Thm. 2)")
        right.axvline(0, color="0.2", linewidth=1)
        biases = [row for row in here if row["quantity"] == RELATIVE_BIAS]
        _dots(left, [row for row in here if row["quantity"] == RATIO], laws)
        _hollow_dots(left, [row for row in here if row["quantity"] == DIRECT_RATIO], laws)
        _dots(right, [row for row in biases if row["weight"] not in _UNBIASED], laws)
        _hollow_dots(right, biases, laws)
        left.set(ylabel=f"k = {count} masked", yticks=range(len(laws)), yticklabels=laws)
        left.set_ylim(len(laws) - 0.5, -0.5)
    axis = panels[-1, 0].xaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[-1, 1].set_xscale("symlog", linthresh=0.1)
    panels[-1, 1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[-1, 0].set_xlabel("mask variance / that of uniform masks")
    panels[-1, 1].set_xlabel(r"bias$^2$ / $\|\bar g\|^2$ (linear below 0.1)")
    hollow = "hollow: by the law's own draws"
    panels[0, 0].scatter([], [], s=45, facecolors="none", edgecolors="0.3", label=hollow)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save_figure(figure, path, title=title, dpi=150)


def _dots(panel: Any, rows: Sequence[Row], laws: Sequence[str]) -> None:
    for weight, colour in _COLOURS.items():
        near, places = [], []
        for row, y in _placed(rows, laws, weight):
            if row["estimate"] <= _FARTHEST:
                near.append({**row, "high": min(row["high"], _FARTHEST)})
                places.append(y)
                continue
            panel.plot(_FARTHEST, y, ">", color=colour, markersize=7)
            panel.annotate(f"{row['estimate']:.0e} ", (_FARTHEST, y), ha="right", va="center", fontsize=8,
                           xytext=(-6, 0), textcoords="offset points")  # fmt: skip
        errorbars(panel, near, places, color=colour, label=_MEANINGS[weight])
    panel.grid(axis="x", alpha=0.3)


def _hollow_dots(panel: Any, rows: Sequence[Row], laws: Sequence[str]) -> None:
    least = _NEAREST if panel.get_xscale() == "log" else -math.inf
    for weight in _UNBIASED:
        for row, y in _placed(rows, laws, weight):
            x, marker = row["estimate"], "<" if row["estimate"] < least else "o"
            panel.scatter(max(x, least), y, s=45, marker=marker, facecolors="none", edgecolors=_COLOURS[weight])
    panel.grid(axis="x", alpha=0.3)


def _placed(rows: Sequence[Row], laws: Sequence[str], weight: str) -> list[tuple[Row, float]]:
    """The rows of a weight and how high in a panel each stands."""
    offset = (list(_COLOURS).index(weight) - 1.5) * 0.2
    own = [row for row in rows if row["weight"] == weight and row["law"] in laws]
    return [(row, laws.index(row["law"]) + offset) for row in own]
