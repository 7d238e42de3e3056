"""Distributions of losses side by side: their numbers, histograms and densities (2204.03243, Fig. 1a)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq_masking.figures.figure import new_figure, save_figure

__all__ = ["density", "histogram_rows", "plot_distributions"]

Losses = npt.NDArray[np.float64]

_POINTS = 200
_SHOWN = 0.995  # share of all losses that histograms reach to


def histogram_rows(losses: Mapping[str, Losses], num_bins: int) -> list[dict[str, Any]]:
    """Return a row for each bin of each distribution: from, to, count and density; the last bin is open."""
    edges = _edges(losses, num_bins)
    rows = []
    for name, values in losses.items():
        counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
        densities = counts / max(1, counts.sum()) / np.diff(edges)
        rows += [
            {"source": name, "from": low, "to": high, "count": int(count), "density": float(height)}
            for low, high, count, height in zip(
                edges[:-1].tolist(), edges[1:].tolist(), counts, densities, strict=True
            )
        ]
    return rows


def density(values: Losses, points: Losses) -> Losses:
    """Return a Gaussian kernel estimate by Silverman's rule, reflected at 0, below which no loss can be."""
    low, high = np.percentile(values, (25, 75))
    spread = min(values.std(), (high - low) / 1.349) or values.std() or 1.0
    width = 0.9 * spread * len(values) ** -0.2
    total = np.zeros_like(points)
    for part in np.array_split(values, -(-len(values) // 10_000)):
        for sign in (1.0, -1.0):
            total += np.exp(-0.5 * ((points[:, None] - sign * part) / width) ** 2).sum(1)
    return total / (len(values) * width * np.sqrt(2 * np.pi))


def plot_distributions(losses: Mapping[str, Losses], path: Path, *, num_bins: int, title: str) -> None:
    """Draws histograms, their densities, and a line at each mean."""
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
