"""Figures as PNG: whole files, without a display; panels of curves, and distributions side by side."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.files import whole_file

__all__ = [
    "Curve", "Curves", "Panel", "density", "errorbars", "histogram_rows", "new_figure", "plot_distributions",
    "plot_panels", "save_figure",
]  # fmt: skip

Curve = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]  # updates and values
Curves = Mapping[str, Curve]  # by metric
Losses = npt.NDArray[np.float64]

_COLOURS = ("#1b6ca8", "#c8501e", "#2a8a4a", "#7a3e9d", "#8a6d00", "#555555")
_POINTS = 200
_SHOWN = 0.995  # share of all losses that histograms reach to


class Panel(NamedTuple):
    """Metrics of a panel with their line styles, and what stands beside them."""

    label: str
    lines: Sequence[tuple[str, str, str]]  # metric, style and meaning of each
    level: float | None = None  # draw a line at this height, named ``level_label``
    level_label: str = ""
    xlabel: str = "updates"


def new_figure(rows: int, columns: int, size: tuple[float, float], **sharing: Any) -> tuple[Any, Any]:
    """Return a figure of a size in inches and its axes, an array ``[rows, columns]``; it needs no display."""
    # Late: who draws none does not wait for it. Its own backend: pyplot would keep it alive, and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing)


def save_figure(figure: Any, path: Path, *, title: str = "", dpi: int = 120) -> None:
    """Write a PNG, whole or not at all, under a title in lines that fit; its folder is made."""
    if title:
        figure.suptitle("\n".join(wrap(title, 130)), fontsize=9)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png")


def errorbars(axis: Any, rows: Sequence[Mapping[str, Any]], places: Sequence[float], **look: Any) -> None:
    """Draw ``estimate`` of each row at its height, with a bar from ``low`` to ``high``."""
    below = [max(0.0, row["estimate"] - row["low"]) for row in rows]
    above = [max(0.0, row["high"] - row["estimate"]) for row in rows]
    estimates = [row["estimate"] for row in rows]
    axis.errorbar(estimates, places, xerr=(below, above), fmt="o", markersize=5, capsize=3, **look)


def plot_panels(
    runs: Mapping[str, Curves], panels: Sequence[Panel], path: Path, *, smooth: int = 1, title: str = ""
) -> None:
    """Draw the panels; a colour is a run, or a line of its panel where there is one run only.

    A metric that a run does not have is left out; a point is the mean of ``smooth`` intervals.
    """
    columns, several = min(3, len(panels)), len(runs) > 1
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, (4.5 * columns, 3.6 * rows))
    for panel, axis in zip(panels, axes.flat, strict=False):
        for (name, curves), run_colour in zip(runs.items(), cycle(_COLOURS)):
            for (metric, style, meaning), line_colour in zip(panel.lines, cycle(_COLOURS)):
                if metric not in curves or not len(curves[metric][0]):
                    continue
                label = ", ".join(part for part in (name if several else "", meaning) if part)
                colour = run_colour if several else line_colour
                points = _smoothed(curves[metric], smooth)
                axis.plot(*points, style, color=colour, linewidth=1.5, markersize=3, label=label)
        if panel.level is not None:
            label = panel.level_label or "_"  # matplotlib's sign for a line that no legend names
            axis.axhline(panel.level, color="0.6", linewidth=0.8, zorder=0, label=label)
        axis.set(xlabel=panel.xlabel, ylabel=panel.label)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    save_figure(figure, path, title=title)


def _smoothed(found: Curve, window: int) -> Curve:
    """Means over ``window`` consecutive intervals, at the middle of their updates."""
    updates, values = found
    if window == 1 or len(values) < window:
        return found
    kernel = np.full(window, 1.0 / window)
    return np.convolve(updates, kernel, "valid"), np.convolve(values, kernel, "valid")


def histogram_rows(losses: Mapping[str, Losses], num_bins: int) -> list[dict[str, Any]]:
    """Return a row for each bin of each distribution: from, to, count and density; the last bin is open."""
    edges = _edges(losses, num_bins)
    rows = []
    for name, values in losses.items():
        counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
        densities = counts / max(1, counts.sum()) / np.diff(edges)
        columns = (part.tolist() for part in (edges[:-1], edges[1:], counts, densities))
        keys = ("from", "to", "count", "density")
        rows += [{"source": name, **dict(zip(keys, values, strict=True))} for values in zip(*columns, strict=True)]
    return rows


def density(values: Losses, points: Losses) -> Losses:
    """Return a Gaussian kernel estimate by Silverman's rule, reflected at 0, below which no loss can be."""
    from sklearn.neighbors import KernelDensity

    low, high = np.percentile(values, (25, 75))
    spread = min(values.std(), (high - low) / 1.349) or values.std() or 1.0
    kernels = KernelDensity(bandwidth=0.9 * spread * len(values) ** -0.2)
    kernels.fit(np.concatenate((values, -values))[:, None])
    return 2 * np.exp(kernels.score_samples(points[:, None]))


def plot_distributions(losses: Mapping[str, Losses], path: Path, *, num_bins: int, title: str) -> None:
    """Draw histograms of losses (2204.03243, Fig. 1a), their densities, and a line at each mean."""
    edges = _edges(losses, num_bins)
    figure, ((axis,),) = new_figure(1, 1, (7, 4.2))
    points = np.linspace(0, edges[-1], _POINTS)
    for number, (name, values) in enumerate(losses.items()):
        colour = f"C{number}"
        axis.hist(np.minimum(values, edges[-1]), edges, density=True, alpha=0.2, color=colour)
        axis.plot(points, density(values, points), color=colour, label=f"{name}, mean {values.mean():.3f}")
        axis.axvline(values.mean(), color=colour, linestyle=":", linewidth=1)
    axis.set(xlabel="discriminator's loss on replaced tokens, nats", ylabel="density")
    axis.set_title(title, fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path)


def _edges(losses: Mapping[str, Losses], num_bins: int) -> Losses:
    return np.linspace(0.0, np.quantile(np.concatenate(list(losses.values())), _SHOWN), num_bins + 1)
