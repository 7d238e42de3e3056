"""The measurements as figures: PNG files, no display needed.

Shapes: H distances, S sequences, Q pairs.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from fairseq_masking.figures.figure import new_figure, save_figure
from fairseq_masking.measure.gradient_variance.covariance import CovarianceCurve
from fairseq_masking.measure.gradient_variance.report import (
    ADDITIVE_RATIO,
    DIRECT_RATIO,
    RATIO,
    RELATIVE_BIAS,
    SMALLEST_RATIO,
    Row,
)

__all__ = ["plot_distances", "plot_laws", "plot_splits"]

_DPI = 150
_NUM_BINS = 40
_MAX_LINES = 6
_PANEL_WIDTH, _HEIGHT = 5.2, 4.0  # inches
# What lies beyond would leave the rest in a corner: it is drawn at the edge.
_NEAREST, _FARTHEST = 0.03, 300.0
_UNBIASED = ("set", "ordered")
_COLOURS = {"set": "#1b6ca8", "ordered": "#7a3e9d", "clipped": "#c8501e", "none": "#555555"}
_MEANINGS = {
    "set": "p_rand / p_prop (Eq. 5)",
    "ordered": "the same for ordered draws",
    "clipped": "the paper's, clipped: biased",
    "none": "no weight: biased",
}


def plot_splits(rows: Sequence[Row], path: Path, *, title: str = "") -> None:
    """Draw the variance of disjoint masks over that of independent ones, of each sequence and their mean.

    Args:
        rows: of ``split_rows``.
    """
    ratios = [row for row in rows if row["quantity"] == "ratio"]
    additive = next(row["estimate"] for row in rows if row["quantity"] == ADDITIVE_RATIO)  # the mean's
    figure, ((panel,),) = new_figure(1, 1, (7, 1.5 + 0.3 * len(ratios)))
    panel.axvline(1, color="0.2", linewidth=1)
    panel.axvline(additive, color="#2a8a4a", linestyle="--", label=ADDITIVE_RATIO)
    _errorbars(panel, ratios, range(len(ratios)), color=_COLOURS["set"])
    panel.set(xlabel="variance of disjoint / independent masks", ylabel="sequence")
    panel.set(yticks=range(len(ratios)), yticklabels=[row["sequence"] for row in ratios])
    panel.invert_yaxis()
    panel.legend(fontsize=8)
    _save(figure, path, title)


def plot_distances(curves: Mapping[str, CovarianceCurve], path: Path, *, title: str = "") -> None:
    """Draw Fig. 3 of 2010.06040 and below it Fig. 2, a column for each model.

    Fig. 3: mean covariance against Hamming distance with 95% intervals. Fig. 2: a distribution of pair
    covariances for some distances. Deviation: in units of each sequence's mask variance, as several sequences
    share the panel.
    """
    from matplotlib import colormaps

    figure, panels = new_figure(2, len(curves), (_PANEL_WIDTH * len(curves), 2 * _HEIGHT))
    for (upper, lower), (name, curve) in zip(panels.T, curves.items(), strict=True):
        upper.errorbar(curve.distances_H, curve.means_H, yerr=curve.half_widths_H, marker="o", markersize=3, capsize=3)
        upper.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        upper.set(title=name, xlabel="Hamming distance H(m1, m2)", ylabel="mean gradient covariance")
        chosen = np.unique(np.rint(np.linspace(0, len(curve.distances_H) - 1, _MAX_LINES)).astype(int))
        values = curve.relative_HSQ[chosen].reshape(len(chosen), -1)
        # The few pairs beyond would leave the rest in a corner.
        low, high = np.quantile(values, (0.005, 0.995))
        edges = np.linspace(low, high, _NUM_BINS)
        colours = colormaps["viridis"](np.linspace(0, 0.9, len(chosen)))
        for distance, row, colour in zip(curve.distances_H[chosen], values, colours, strict=True):
            lower.hist(row, edges, density=True, histtype="step", color=colour, label=f"H = {distance}")
        lower.set(xlabel="gradient covariance / mask variance", ylabel="density of mask pairs")
        lower.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        lower.legend(title="Hamming distance", fontsize=8)
    _save(figure, path, title)


def plot_laws(rows: Sequence[Row], path: Path, *, title: str = "") -> None:
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
    _save(figure, path, title)


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
        _errorbars(panel, near, places, color=colour, label=_MEANINGS[weight])
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


def _errorbars(panel: Any, rows: Sequence[Row], places: Sequence[float], **look: Any) -> None:
    below = [max(0.0, row["estimate"] - row["low"]) for row in rows]
    above = [max(0.0, row["high"] - row["estimate"]) for row in rows]
    estimates = [row["estimate"] for row in rows]
    panel.errorbar(estimates, places, xerr=(below, above), fmt="o", markersize=5, capsize=3, **look)


def _save(figure: Any, path: Path, title: str) -> None:
    if title:
        figure.suptitle("\n".join(wrap(title, 130)), fontsize=9)
    save_figure(figure, path, dpi=_DPI)
