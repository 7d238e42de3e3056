"""The variance of masks' laws as a figure: PNG, no display needed."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from fairseq_masking.figures.figure import new_figure, save_figure
from fairseq_masking.measure.gradient_variance.proposal_report import (
    DIRECT_RATIO,
    RATIO,
    RELATIVE_BIAS,
    SMALLEST_RATIO,
)

__all__ = ["plot_laws"]

Row = dict[str, Any]

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
        _dots(left, [row for row in here if row["quantity"] == RATIO], laws)
        _dots(left, [row for row in here if row["quantity"] == DIRECT_RATIO], laws, hollow=True)
        biases = [row for row in here if row["quantity"] == RELATIVE_BIAS]
        _dots(right, [row for row in biases if row["weight"] not in _UNBIASED], laws)
        _dots(right, biases, laws, hollow=True)
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
    panels[0, 0].scatter(
        [], [], s=45, facecolors="none", edgecolors="0.3", label="hollow: by the law's own draws"
    )
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    if title:
        figure.suptitle("\n".join(wrap(title, 130)), fontsize=9)
    save_figure(figure, path, dpi=150)


def _dots(panel: Any, rows: Sequence[Row], laws: Sequence[str], *, hollow: bool = False) -> None:
    for offset, (weight, colour) in enumerate(_COLOURS.items()):
        own = [row for row in rows if row["weight"] == weight and row["law"] in laws]
        if hollow and weight not in _UNBIASED:
            continue
        places = [laws.index(row["law"]) + (offset - 1.5) * 0.2 for row in own]
        if hollow:
            shown = [(row["estimate"], y) for row, y in zip(own, places, strict=True)]
            least = _NEAREST if panel.get_xscale() == "log" else -math.inf
            for x, y in shown:
                marker = "<" if x < least else "o"
                panel.scatter(max(x, least), y, s=45, marker=marker, facecolors="none", edgecolors=colour)
            continue
        for row, y in zip(own, places, strict=True):
            if row["estimate"] > _FARTHEST:
                panel.plot(_FARTHEST, y, ">", color=colour, markersize=7)
                panel.annotate(f"{row['estimate']:.0e} ", (_FARTHEST, y), ha="right", va="center", fontsize=8,
                               xytext=(-6, 0), textcoords="offset points")  # fmt: skip
        near = [(row, y) for row, y in zip(own, places, strict=True) if row["estimate"] <= _FARTHEST]
        below = [max(0.0, row["estimate"] - row["low"]) for row, _ in near]
        above = [max(0.0, min(row["high"], _FARTHEST) - row["estimate"]) for row, _ in near]
        panel.errorbar(
            [row["estimate"] for row, _ in near], [y for _, y in near], xerr=(below, above), fmt="o",
            color=colour, markersize=5, capsize=3, label=_MEANINGS[weight],
        )  # fmt: skip
    panel.grid(axis="x", alpha=0.3)
