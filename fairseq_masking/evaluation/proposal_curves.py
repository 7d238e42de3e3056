"""How MAP-Net's proposal network learned, from the logs of one or several runs.

Source: 2008.05333, Section 3.3; the metrics are the criterion's (``criterions/map_net.py``).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.errors import UserError
from fairseq_masking.evaluation.curves import new_figure, save_figure
from fairseq_masking.evaluation.training_log import TrainingLog

__all__ = ["METRICS", "curve_rows", "plot_proposal_curves", "proposal_curves", "summary_cells"]

METRICS = (
    "loss_proposed",
    "loss_uniform",
    "rank_correlation",
    "rank_correlation_uniform",
    "proposal_entropy",
    "share_proposed",
    "importance_weight",
    "clipped_low",
    "clipped_high",
)
_NEEDED = ("loss_uniform", "proposal_entropy")
_COLOURS = ("#1b6ca8", "#c8501e", "#2a8a4a", "#7a3e9d", "#8a6d00", "#555555")


class _Panel(NamedTuple):
    """Metrics of a panel with their line styles, and what stands beside them."""

    label: str
    lines: tuple[tuple[str, str, str], ...]  # metric, style, meaning
    zero: bool = False


_PANELS = (
    _Panel(
        "encoder's loss, bits",
        (("loss_proposed", "-", "proposed positions"), ("loss_uniform", "--", "uniform positions")),
    ),
    _Panel("loss at proposed - at uniform, bits", (("gap", "-", ""),), zero=True),
    _Panel(
        "rank correlation of p_prop and loss",
        (("rank_correlation_uniform", "-", "exploring sentences"), ("rank_correlation", ":", "all")),
        zero=True,
    ),
    _Panel("entropy of p_prop, bits", (("proposal_entropy", "-", ""),)),
    _Panel("share of sentences that explore", (("explored", "-", ""),)),
    _Panel(
        "share of proposed sentences clipped",
        (("clipped_low", "-", "at 1 - eps"), ("clipped_high", "--", "at 1 + eps")),
    ),
)

Curve = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def proposal_curves(name: str, log: TrainingLog) -> dict[str, Curve]:
    """Return updates and values by metric; ``gap`` and ``explored`` are computed. Metrics that a run does not
    have (no sentence was proposed yet) are shorter or empty.

    Raises:
        UserError: the log is not one of a ``map_net`` run.
    """
    curves = {key: _curve(*log.train_curve(key)) for key in METRICS}
    missing = [key for key in _NEEDED if not len(curves[key][0])]
    if missing:
        raise UserError(
            f"run {name}: its log has no {' or '.join(missing)}: give logs of --criterion map_net with"
            " --log-format json (or simple)"
        )
    both = [
        update for update, values in log.train.items() if {"loss_proposed", "loss_uniform"} <= values.keys()
    ]
    gaps = [log.train[update]["loss_proposed"] - log.train[update]["loss_uniform"] for update in both]
    updates, shares = curves["share_proposed"]
    return {**curves, "gap": _curve(both, gaps), "explored": (updates, 1.0 - shares)}


def plot_proposal_curves(runs: Mapping[str, Mapping[str, Curve]], path: Path, *, smooth: int = 1) -> None:
    """Draws six panels with a colour for each run.

    Args:
        runs: name -> ``proposal_curves``.
        smooth: intervals that a point is the mean of.
    """
    figure, axes = new_figure(2, 3, (13.5, 7.2))
    for panel, axis in zip(_PANELS, axes.flat, strict=True):
        for (name, curves), colour in zip(runs.items(), cycle(_COLOURS)):
            for metric, style, meaning in panel.lines:
                updates, values = _smoothed(curves[metric], smooth)
                label = ", ".join(part for part in (name, meaning) if part)
                axis.plot(updates, values, style, color=colour, linewidth=1.5, label=label)
        if panel.zero:
            axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axis.set(xlabel="updates", ylabel=panel.label)
        axis.grid(alpha=0.3)
        if len(panel.lines) > 1 or len(runs) > 1:
            axis.legend(fontsize=8)
    save_figure(figure, path)


def curve_rows(runs: Mapping[str, Mapping[str, Curve]]) -> list[dict[str, Any]]:
    """Return a row for each run and interval: run, updates and the metrics ("" where there is none)."""
    names = (*METRICS, "gap", "explored")
    rows = []
    for run, curves in runs.items():
        values = {name: dict(zip(*(part.tolist() for part in curves[name]), strict=True)) for name in names}
        updates = sorted({update for curve in values.values() for update in curve})
        rows += [
            {"run": run, "updates": update, **{name: values[name].get(update, "") for name in names}}
            for update in updates
        ]
    return rows


def summary_cells(runs: Mapping[str, Mapping[str, Curve]]) -> tuple[list[str], list[list[str]]]:
    """Return header and a line for each run: means over the last tenth of its updates."""
    header = [
        "last tenth of the updates", "loss, proposed", "loss, uniform", "difference", "rank correlation",
        "entropy (at first)", "explored", "clipped low / high",
    ]  # fmt: skip
    cells = []
    for name, curves in runs.items():
        last = {key: _last_tenth(curve) for key, curve in curves.items()}
        first = curves["proposal_entropy"][1][0]
        cells.append(
            [
                name,
                f"{last['loss_proposed']:.3f}",
                f"{last['loss_uniform']:.3f}",
                f"{last['gap']:+.3f}",
                f"{last['rank_correlation_uniform']:.3f}",
                f"{last['proposal_entropy']:.3f} ({first:.3f})",
                f"{last['explored']:.1%}",
                f"{last['clipped_low']:.1%} / {last['clipped_high']:.1%}",
            ]
        )
    return header, cells


def _curve(updates: Sequence[int], values: Sequence[float]) -> Curve:
    return np.asarray(updates, dtype=np.int64), np.asarray(values, dtype=np.float64)


def _smoothed(curve: Curve, window: int) -> Curve:
    """Means over ``window`` consecutive intervals, at the middle of their updates."""
    updates, values = curve
    if window == 1 or len(values) < window:
        return curve
    kernel = np.full(window, 1.0 / window)
    return np.convolve(updates, kernel, "valid"), np.convolve(values, kernel, "valid")


def _last_tenth(curve: Curve) -> float:
    updates, values = curve
    return float(values[updates > 0.9 * updates[-1]].mean()) if len(values) else float("nan")
