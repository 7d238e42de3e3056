"""Gradient covariance of two masks of one sequence against their Hamming distance (Assumption 1).

Source: 2010.06040, Eq. 8, Fig. 2 and 3. At distance 0 the covariance is Var(g(m_1)), at 2 tau that of
disjoint masks. Averaged over the distances of independent masks it is 0, so it changes its sign near their
mean distance 2 tau (1 - tau / m); only pairs farther apart than that lower the variance of Eq. 7.

Deviation: the paper measures "a fixed mini-batch" of "selected parameters", which may mean the covariance of
whole mini-batch gradients; here it is that of a sequence, as in Theorem 1, averaged over sequences.
Shapes: H distances, S sequences, Q pairs of masks, P parameters.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq_masking.figures.figure import new_figure, save_figure
from fairseq_masking.measure.gradient_variance.draws import FixedSequence
from fairseq_masking.measure.gradient_variance.gradients import Measurement, choose, load, mean_gradient, shown
from fairseq_masking.measure.gradient_variance.statistics import Interval, Row, row_table, rows_of

__all__ = ["covariance_curve", "hamming_distances", "measure_distances", "monotonicity", "pair_covariances", "run"]

_NORMAL_95 = 1.959964
_NUM_BINS = 40
_MAX_LINES = 6
_PANEL_WIDTH, _HEIGHT = 5.2, 4.0  # inches
Floats = npt.NDArray[np.float64]


def run(args: argparse.Namespace) -> tuple[list[Row], Callable[[Path], None]]:
    """Measure by the options of ``cli/measure_variance.py``, print tables; return rows, and what draws them."""
    curves: dict[str, CovarianceCurve] = {}
    rows: list[Row] = []
    for path, name in zip(args.checkpoint, args.names, strict=True):
        hub, measurement = load(args, path)
        sequences = choose(args, hub, measurement)
        tau, sizes = sequences[0].tau, [len(sequence.columns_m) for sequence in sequences]
        wanted = hamming_distances(tau, min(sizes), args.distances)
        counts = {"num_pairs": args.pairs, "num_reference": args.reference_masks}
        values = [measure_distances(measurement, each, wanted, **counts) for each in shown(sequences, name)]
        whole = covariance_curve([*wanted, -1], np.stack(values, axis=1))
        own_rows = _rows({"checkpoint": name, "tau": tau}, whole)
        curves[name] = CovarianceCurve._make(part[:-1] for part in whole)
        rows += own_rows
        print(f"{name}: {len(sequences)} sequences, {args.pairs} pairs for each distance")
        print(row_table(own_rows))
        apart = 2 * tau * (1 - tau / np.mean(sizes))
        print(f"{_describe(curves[name])} (independent masks are {apart:.1f} apart on average)")
    return rows, partial(_plot, curves, title=args.note)


def measure_distances(
    measurement: Measurement, sequence: FixedSequence, distances: Sequence[int], *, num_pairs: int, num_reference: int
) -> Floats:
    """Measure the covariance of mask pairs of a sequence at each distance, and of independent pairs.

    Each of the two estimates of gbar is of ``num_reference`` independent masks.

    Returns:
        float64 ``[H + 1, Q]``; the last row, of independent masks, has mean 0 if all is right.
    """
    measurement.rows_in_memory(4)  # two means and a pair
    sequence = replace(sequence, config=replace(sequence.config, num_splits=1))
    gradients_of = partial(measurement.gradients, sequence.tokens_T)
    reference = gradients_of(sequence.independent_masks(2 * num_reference))
    halves = range(num_reference), range(num_reference, 2 * num_reference)
    means = [mean_gradient(reference, half) for half in halves]
    first = 2 * num_reference + 1  # from here on num_pairs epochs for each distance: no stream twice
    pairs = [
        sequence.masks_at_distance(distance, num_pairs, first_epoch=first + number * num_pairs)
        for number, distance in enumerate(distances)
    ]
    pairs.append(sequence.independent_masks(2 * num_pairs, first_epoch=first + len(pairs) * num_pairs))
    return np.stack([pair_covariances(gradients_of(masks), num_pairs, *means) for masks in pairs])


def pair_covariances(
    gradient_of: Callable[[int], Tensor], num_pairs: int, first_mean_P: Tensor, second_mean_P: Tensor
) -> Floats:
    """Return float64 ``[Q]``: (g(m_1) - gbar)^T (g(m_2) - gbar) for pairs (2 q, 2 q + 1) of gradients.

    gbar is estimated twice from masks that share nothing, and each factor takes another estimate, so the
    product is unbiased for every single pair; with one estimate it would gain gbar's own variance. Both ways
    to pair factors and estimates are averaged. The estimates are shared by all pairs: what they err shifts
    all distances of a sequence alike.
    """
    values = np.empty(num_pairs)
    for pair in range(num_pairs):
        one, other = gradient_of(2 * pair), gradient_of(2 * pair + 1)
        straight = torch.dot(one - first_mean_P, other - second_mean_P)
        crossed = torch.dot(one - second_mean_P, other - first_mean_P)
        values[pair] = (straight + crossed).item() / 2
    return values


def hamming_distances(num_masked: int, num_maskable: int, count: int) -> list[int]:
    """Return at most ``count`` even distances, from 0 to the largest that two masks can have."""
    largest = min(num_masked, num_maskable - num_masked)
    return [2 * int(half) for half in np.unique(np.rint(np.linspace(0, largest, count)))]


class CovarianceCurve(NamedTuple):
    """Mean covariance by distance over a fixed set of sequences."""

    distances_H: npt.NDArray[np.int64]
    means_H: Floats  # mean over pairs and sequences
    standard_errors_H: Floats  # of the mean over pairs, the sequences (and the estimates of gbar) held fixed
    relative_HSQ: Floats  # each pair's value over the mask variance of its sequence (the mean at distance 0)


def covariance_curve(distances: Sequence[int], values_HSQ: Floats) -> CovarianceCurve:
    """Average covariances ``[H, S, Q]``; the first distance must be 0."""
    assert distances[0] == 0
    num_sequences, num_pairs = values_HSQ.shape[1:]
    variances_HS = values_HSQ.var(2, ddof=1)
    return CovarianceCurve(
        np.asarray(distances, dtype=np.int64),
        values_HSQ.mean((1, 2)),
        np.sqrt(variances_HS.sum(1) / num_pairs) / num_sequences,
        values_HSQ / values_HSQ[0].mean(1)[None, :, None],
    )


class Monotonicity(NamedTuple):
    """How far a curve supports Assumption 1: its rises between neighbours, the largest with its error."""

    num_rises: int
    largest_rise: float
    standard_error: float
    sign_change: float | None


def monotonicity(curve: CovarianceCurve) -> Monotonicity:
    """Judge Assumption 1 (monotone decreasing); ``sign_change``: distance of the first 0, interpolated."""
    steps, means_H = np.diff(curve.means_H), curve.means_H
    largest = int(steps.argmax())
    error = np.hypot(*curve.standard_errors_H[largest : largest + 2])
    sign_change, right = None, int((means_H < 0).argmax())
    if right > 0:
        around = [right, right - 1]
        sign_change = float(np.interp(0, means_H[around], curve.distances_H[around]))
    return Monotonicity(int((steps > 0).sum()), float(steps[largest]), float(error), sign_change)


def _rows(of: Row, curve: CovarianceCurve) -> list[Row]:
    """A row for each distance and one for independent masks; ``relative`` is the ratio to distance 0."""
    rows = []
    for distance, mean, error in zip(*curve[:3], strict=True):
        found = Interval(mean, error, mean - _NORMAL_95 * error, mean + _NORMAL_95 * error)
        label = "independent" if distance < 0 else distance
        rows += rows_of({**of, "distance": label}, [("covariance", "Eq. 8", found)])
        rows[-1] |= {"relative": mean / curve.means_H[0], "pairs": curve.relative_HSQ[0].size}
    return rows


def _describe(curve: CovarianceCurve) -> str:
    judged = monotonicity(curve)
    where = "nowhere" if judged.sign_change is None else f"at H = {judged.sign_change:.1f}"
    return (
        f"Assumption 1 (monotone decreasing): {judged.num_rises} of {len(curve.distances_H) - 1} steps rise, the"
        f" largest step is {judged.largest_rise:.4g} ± {judged.standard_error:.2g}; the covariance crosses 0 {where}"
    )


def _plot(curves: Mapping[str, CovarianceCurve], path: Path, *, title: str = "") -> None:
    """Draw Fig. 3 of 2010.06040, with 95% intervals, and below it Fig. 2 for some distances, a column for each model.

    Deviation: Fig. 2 is in units of each sequence's mask variance, as several sequences share the panel.
    """
    from matplotlib import colormaps

    figure, panels = new_figure(2, len(curves), (_PANEL_WIDTH * len(curves), 2 * _HEIGHT))
    for (upper, lower), (name, curve) in zip(panels.T, curves.items(), strict=True):
        half_widths_H = _NORMAL_95 * curve.standard_errors_H
        upper.errorbar(curve.distances_H, curve.means_H, yerr=half_widths_H, marker="o", markersize=3, capsize=3)
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
    save_figure(figure, path, title=title, dpi=150)
