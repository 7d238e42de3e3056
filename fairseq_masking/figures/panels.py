"""Curves of one or several training logs: as a figure of panels, as rows, and their means at the end."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.figures.figure import new_figure, save_figure
from fairseq_masking.figures.training_log import TrainingLog

__all__ = ["Curve", "Curves", "Panel", "curve", "curve_rows", "last_tenth", "logged_curves", "plot_panels"]

_COLOURS = ("#1b6ca8", "#c8501e", "#2a8a4a", "#7a3e9d", "#8a6d00", "#555555")

Curve = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
Curves = Mapping[str, Curve]


class Panel(NamedTuple):
    """Metrics of a panel with their line styles, and what stands beside them.

    Attributes:
        lines: metric, style and meaning of each.
        zero: draw a line at 0.
    """

    label: str
    lines: Sequence[tuple[str, str, str]]
    zero: bool = False


def curve(updates: Sequence[int], values: Sequence[float]) -> Curve:
    """Return updates and values as arrays."""
    return np.asarray(updates, dtype=np.int64), np.asarray(values, dtype=np.float64)


def logged_curves(log: TrainingLog, metrics: Sequence[str]) -> dict[str, Curve]:
    """Return training's values of each metric; one that was not always logged is shorter, or empty."""
    return {metric: curve(*log.train_curve(metric)) for metric in metrics}


def plot_panels(
    runs: Mapping[str, Curves], panels: Sequence[Panel], path: Path, *, columns: int = 3, smooth: int = 1
) -> None:
    """Draws the panels; a colour is a run, or a line of its panel where there is one run only.

    Args:
        runs: name -> metric -> curve.
        smooth: intervals that a point is the mean of.
    """
    rows, several = -(-len(panels) // columns), len(runs) > 1
    figure, axes = new_figure(rows, columns, (4.5 * columns, 3.6 * rows))
    for panel, axis in zip(panels, axes.flat, strict=False):
        for (name, curves), run_colour in zip(runs.items(), cycle(_COLOURS)):
            for (metric, style, meaning), line_colour in zip(panel.lines, cycle(_COLOURS)):
                updates, values = _smoothed(curves.get(metric, curve([], [])), smooth)
                if not len(values):
                    continue
                label = ", ".join(part for part in (name if several else "", meaning) if part)
                colour = run_colour if several else line_colour
                axis.plot(updates, values, style, color=colour, linewidth=1.5, label=label)
        if panel.zero:
            axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axis.set(xlabel="updates", ylabel=panel.label)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    save_figure(figure, path)


def curve_rows(runs: Mapping[str, Curves]) -> list[dict[str, Any]]:
    """Return a row for each run and interval: run, updates and the metrics ("" where there is none)."""
    metrics = list(dict.fromkeys(metric for curves in runs.values() for metric in curves))
    rows = []
    for run, curves in runs.items():
        values = {
            metric: dict(zip(*(part.tolist() for part in found), strict=True))
            for metric, found in curves.items()
        }
        updates = sorted({update for found in values.values() for update in found})
        rows += [
            {
                "run": run,
                "updates": update,
                **{metric: values.get(metric, {}).get(update, "") for metric in metrics},
            }
            for update in updates
        ]
    return rows


def last_tenth(found: Curve) -> float:
    """Return the mean over the last tenth of the updates; NaN of an empty curve."""
    updates, values = found
    return float(values[updates > 0.9 * updates[-1]].mean()) if len(values) else float("nan")


def _smoothed(found: Curve, window: int) -> Curve:
    """Means over ``window`` consecutive intervals, at the middle of their updates."""
    updates, values = found
    if window == 1 or len(values) < window:
        return found
    kernel = np.full(window, 1.0 / window)
    return np.convolve(updates, kernel, "valid"), np.convolve(values, kernel, "valid")
