"""Figures 2 and 3 of 2010.06040 from measured covariances: PNG files, no display needed.

Shapes: H distances, S sequences, Q pairs.
"""

from pathlib import Path

import matplotlib
import numpy as np

from fairseq_masking.figures.figure import new_figure, save_figure
from fairseq_masking.measure.gradient_variance.mask_covariance import CovarianceCurve

__all__ = ["plot_covariance_by_distance", "plot_covariance_distributions"]

_NUM_BINS = 40
_MAX_LINES = 6
_PANEL_WIDTH, _HEIGHT = 5.2, 4.0  # inches


def plot_covariance_distributions(curves: dict[str, CovarianceCurve], path: Path) -> None:
    """Draw Fig. 2: a distribution of pair covariances for some distances, one panel for each model.

    Deviation: in units of each sequence's mask variance, as several sequences share the panel.
    """
    figure, (panels,) = new_figure(1, len(curves), (_PANEL_WIDTH * len(curves), _HEIGHT))
    for panel, (name, curve) in zip(panels, curves.items(), strict=True):
        chosen = np.unique(np.rint(np.linspace(0, len(curve.distances_H) - 1, _MAX_LINES)).astype(int))
        values = curve.relative_HSQ[chosen].reshape(len(chosen), -1)
        # The few pairs beyond would leave the rest in a corner.
        low, high = np.quantile(values, (0.005, 0.995))
        edges = np.linspace(low, high, _NUM_BINS)
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(chosen)))
        for number, row, colour in zip(chosen, values, colours, strict=True):
            panel.hist(
                row,
                edges,
                density=True,
                histtype="step",
                color=colour,
                label=f"H = {curve.distances_H[number]}",
            )
        panel.set(title=name, xlabel="gradient covariance / mask variance", ylabel="density of mask pairs")
        panel.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        panel.legend(title="Hamming distance", fontsize=8)
    save_figure(figure, path, dpi=150)


def plot_covariance_by_distance(curves: dict[str, CovarianceCurve], path: Path) -> None:
    """Draw Fig. 3: mean covariance against Hamming distance with 95% intervals, one panel for each model."""
    figure, (panels,) = new_figure(1, len(curves), (_PANEL_WIDTH * len(curves), _HEIGHT))
    for panel, (name, curve) in zip(panels, curves.items(), strict=True):
        panel.errorbar(
            curve.distances_H, curve.means_H, yerr=curve.half_widths_H, marker="o", markersize=3, capsize=3
        )
        panel.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        panel.set(title=name, xlabel="Hamming distance H(m1, m2)", ylabel="mean gradient covariance")
    save_figure(figure, path, dpi=150)
