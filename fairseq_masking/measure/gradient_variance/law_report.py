"""What laws of masks do to the gradient's variance, as rows, as two tables and as a figure.

Shapes: S sequences, T tokens; resampled arrays [1 + R] as in statistics.py.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import entropy, spearmanr

from fairseq_masking.figures.figure import errorbars, new_figure, save_figure
from fairseq_masking.figures.tables import format_table
from fairseq_masking.masking import num_masked
from fairseq_masking.measure.gradient_variance import estimators, statistics
from fairseq_masking.measure.gradient_variance.draws import FixedSequence
from fairseq_masking.measure.gradient_variance.estimators import UNIFORM, EstimatorVariance, SequenceEstimators
from fairseq_masking.measure.gradient_variance.gradients import choose, load, shown
from fairseq_masking.measure.gradient_variance.laws import WEIGHTINGS
from fairseq_masking.measure.gradient_variance.statistics import Floats, Quantity, Resampled, Row, rows_of
from fairseq_masking.measure.sequences import sequence_length

__all__ = ["estimator_rows", "estimator_table", "law_rows", "law_table", "run"]

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
_LOOKS = {  # of a weight: colour and meaning
    "set": ("#1b6ca8", "p_rand / p_prop (Eq. 5)"),
    "ordered": ("#7a3e9d", "the same for ordered draws"),
    "clipped": ("#c8501e", "the paper's, clipped: biased"),
    "none": ("#555555", "no weight: biased"),
}


def run(args: argparse.Namespace) -> tuple[list[Row], Callable[[Path], None]]:
    """Measure by the options of ``cli/measure_variance.py``, print tables; return rows, and what draws them."""
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
        others = [estimators.measured_laws(measurement, each, count, **rounds) for each in shown(sequences, "oracles")]
        num_kept = (1 + len(others[0]) * len(WEIGHTINGS)) * len(sequences)
        sizes = {"num_masked": count, "num_draws": args.draws, "num_replicates": args.replicates, "num_kept": num_kept}
        measured = [
            estimators.measure_laws(measurement, sequence, its_laws, clip=clip, **sizes)
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
    """Tabulate ``measure_laws``: the mean over the sequences, whose rows begin with ``of``, then each one's ratios."""
    counts = statistics.resampling_weights(len(measured), num_replicates, rng)
    means = {key: statistics.average([each.variances[key] for each in measured]) for key in measured[0].variances}
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
    """Tabulate each sequence's laws (log p ``[T]`` by name): entropy over the uniform one's, rank correlations."""
    counts = statistics.resampling_weights(len(laws), num_replicates, rng)
    finite = [{name: log_p_T[log_p_T > -np.inf] for name, log_p_T in each.items()} for each in laws]
    rows: list[Row] = []
    for name in laws[0]:
        found = {"entropy / log n": [entropy(np.exp(each[name])) / np.log(len(each[name])) for each in finite]}
        for other in (other for other in laws[0] if other != name):
            ranked = [spearmanr(each[name], each[other]).statistic for each in finite]
            found[f"rank correlation with {other}"] = ranked
        of_law, mean = _of_law(of, name, ""), statistics.weighted_mean
        rows += rows_of(of_law, [(quantity, "", mean(values, counts)) for quantity, values in found.items()])
    return rows


def estimator_table(rows: Sequence[Row], num_masked: int) -> str:
    """Return a line for each law and weight, and one for Theorem 2's bound."""
    chosen = [row for row in _means(rows, num_masked) if row["weight"]]
    bounds = [{**row, "law": "any law (Thm. 2)", "quantity": _BOUND[row["quantity"]]} for row in chosen[-2:]]
    return _pivot([*chosen[:-2], *bounds], ("law", "weight"), _COLUMNS)


def law_table(rows: Sequence[Row], num_masked: int) -> str:
    """Return a line for each law: entropy and rank correlations."""
    chosen = [row for row in _means(rows, num_masked) if not row["weight"]]
    _, *others = dict.fromkeys(row["law"] for row in chosen)
    columns = {f"rank corr. with {other}": f"rank correlation with {other}" for other in others}
    return _pivot(chosen, ("law",), {"entropy / log n": "entropy / log n", **columns})


def _means(rows: Sequence[Row], num_masked: int) -> list[Row]:
    return [r for r in rows if r["num_masked"] == num_masked and str(r["sequence"]).startswith("mean")]


def _pivot(rows: Sequence[Row], keys: tuple[str, ...], columns: Mapping[str, str]) -> str:
    """A line for each value of ``keys``; columns: heading -> quantity, as an estimate with its interval."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        form = "{estimate:.3g} [{low:.3g}, {high:.3g}]" if row["low"] != row["high"] else "{estimate:.3g}"
        shown = form.format(**row)
        if row["estimate"] > _BEYOND:  # laws.py ends weights there
            shown = f"beyond {_BEYOND:.0e}"
        lines.setdefault(tuple(row[key] for key in keys), {})[row["quantity"]] = shown
    cells = [[*line, *(found.get(name, "") for name in columns.values())] for line, found in lines.items()]
    return format_table([*keys, *columns], cells)


def _of_law(of: Row, law: str, weight: str) -> Row:
    return {**of, "law": law, "weight": weight}


def _mask_quantities(found: EstimatorVariance, uniform: EstimatorVariance) -> list[Quantity]:
    gbar_norm, base = uniform.mean_norm, uniform.mask_variance
    # What is known of an unbiased weight need not be estimated from few effective draws.
    estimated: tuple[Any, Any, Any] = (found.mean_norm, found.bias, found.mean_weight)
    signal, bias, weight = (gbar_norm, 0.0, 1.0) if found.is_unbiased else estimated
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
        ("effective share of draws", "Eq. 5", weight**2 / found.mean_square_weight),
    ]


def _terms(measured: Sequence[SequenceEstimators], key: estimators.Key, counts: Floats) -> tuple[Resampled, Resampled]:
    """Sentence variance and total variance of a law with a weight, resampled over the sequences."""
    variances = [each.variances[key] for each in measured]
    inner_SS = statistics.inner_products_of([each.means_P[key] for each in measured])
    sentences = statistics.sentence_variance([each.mean_norm[0] for each in variances], inner_SS, counts)
    return sentences, statistics.weighted_mean([each.mask_variance[0] for each in variances], counts) + sentences


def _plot(rows: Sequence[Row], path: Path, *, title: str = "") -> None:
    """Draw mask variance over the uniform law's, and bias, a line of dots for each law: 95% intervals.

    A row of panels is a number of masked positions. Hollow dots are what the law's own draws say of the unbiased
    weights.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    means = [row for row in rows if str(row["sequence"]).startswith("mean") and row["weight"]]
    counts = sorted({row["num_masked"] for row in means})
    laws = list(dict.fromkeys(row["law"] for row in means if row["law"] not in ("any", "uniform")))
    size = (11, 1.5 + (0.6 + 0.6 * len(laws)) * len(counts))
    figure, panels = new_figure(len(counts), 2, size, sharey=True, sharex="col")
    for (left, right), count in zip(panels, counts, strict=True):
        found: dict[str, list[Row]] = {}
        for row in means:
            if row["num_masked"] == count:
                found.setdefault(row["quantity"], []).append(row)
        left.set_xscale("log")
        left.axvline(1, color="0.2", linewidth=1, label="uniform masks")
        left.axvline(found[SMALLEST_RATIO][0]["estimate"], color="#2a8a4a", linestyle="--", linewidth=1.2,
                     label="least of any law (Thm. 2)")  # fmt: skip
        right.axvline(0, color="0.2", linewidth=1)
        _dots(left, found[RATIO], laws, _LOOKS)
        _dots(left, found[DIRECT_RATIO], laws, _UNBIASED, hollow=True)
        _dots(right, found[RELATIVE_BIAS], laws, [weight for weight in _LOOKS if weight not in _UNBIASED])
        _dots(right, found[RELATIVE_BIAS], laws, _UNBIASED, hollow=True)
        ylim = (len(laws) - 0.5, -0.5)
        left.set(ylabel=f"k = {count} masked", yticks=range(len(laws)), yticklabels=laws, ylim=ylim)
        for panel in (left, right):
            panel.grid(axis="x", alpha=0.3)
    (left, right), plain = panels[-1], FuncFormatter(lambda value, _: f"{value:g}")
    left.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    left.xaxis.set_minor_locator(NullLocator())
    left.xaxis.set_major_formatter(plain)
    right.set_xscale("symlog", linthresh=0.1)
    right.xaxis.set_major_formatter(plain)
    left.set_xlabel("mask variance / that of uniform masks")
    right.set_xlabel(r"bias$^2$ / $\|\bar g\|^2$ (linear below 0.1)")
    for colour, meaning in _LOOKS.values():
        panels[0, 0].scatter([], [], color=colour, label=meaning)
    panels[0, 0].scatter([], [], s=45, facecolors="none", edgecolors="0.3", label="hollow: by the law's own draws")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save_figure(figure, path, title=title, dpi=150)


def _dots(
    panel: Any, rows: Sequence[Row], laws: Sequence[str], weights: Iterable[str], *, hollow: bool = False
) -> None:
    """A dot for each row; what lies beyond the edges stands there, with its size."""
    nearest = _NEAREST if panel.get_xscale() == "log" else -np.inf
    for row in (row for row in rows if row["weight"] in weights and row["law"] in laws):
        colour, x = _LOOKS[row["weight"]][0], min(max(row["estimate"], nearest), _FARTHEST)
        y = laws.index(row["law"]) + (list(_LOOKS).index(row["weight"]) - 1.5) * 0.2
        marker = "o" if x == row["estimate"] else "<" if x == nearest else ">"
        panel.scatter(x, y, s=45, marker=marker, facecolors="none" if hollow else colour, edgecolors=colour)
        if not hollow and marker == "o":
            errorbars(panel, [{**row, "high": min(row["high"], _FARTHEST)}], [y], color=colour)
        elif not hollow:
            panel.annotate(f"{row['estimate']:.0e} ", (x, y), ha="right", va="center", fontsize=8,
                           xytext=(-6, 0), textcoords="offset points")  # fmt: skip
