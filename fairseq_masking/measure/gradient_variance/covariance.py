"""Gradient covariance of two masks of one sequence against their Hamming distance (Assumption 1).

Source: 2010.06040, Eq. 8, Fig. 2 and 3. At distance 0 the covariance is Var(g(m_1)), at 2 tau that of
disjoint masks. Averaged over the distances of independent masks it is 0, so it changes its sign near their
mean distance 2 tau (1 - tau / m); only pairs farther apart than that lower the variance of Eq. 7.

Deviation: the paper measures "a fixed mini-batch" of "selected parameters", which may mean the covariance of
whole mini-batch gradients; here it is that of a sequence, as in Theorem 1, averaged over sequences.
Shapes: H distances, S sequences, Q pairs of masks, P parameters.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "CovarianceCurve",
    "Monotonicity",
    "covariance_curve",
    "hamming_distances",
    "monotonicity",
    "pair_covariances",
]

_NORMAL_95 = 1.959964


def pair_covariances(
    gradient_of: Callable[[int], Tensor], num_pairs: int, first_mean_P: Tensor, second_mean_P: Tensor
) -> npt.NDArray[np.float64]:
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
    """Mean covariance by distance over a fixed set of sequences.

    Attributes:
        distances_H: int64.
        means_H: mean over pairs and sequences.
        standard_errors_H: of the mean over pairs, the sequences (and the estimates of gbar) held fixed.
        relative_HSQ: each pair's value over the mask variance of its sequence (the mean at distance 0).
    """

    distances_H: npt.NDArray[np.int64]
    means_H: npt.NDArray[np.float64]
    standard_errors_H: npt.NDArray[np.float64]
    relative_HSQ: npt.NDArray[np.float64]

    @property
    def half_widths_H(self) -> npt.NDArray[np.float64]:
        """Half the width of the 95% intervals."""
        return _NORMAL_95 * self.standard_errors_H


def covariance_curve(distances: list[int], values_HSQ: npt.NDArray[np.float64]) -> CovarianceCurve:
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
    steps = np.diff(curve.means_H)
    largest = int(steps.argmax())
    errors = np.hypot(curve.standard_errors_H[1:], curve.standard_errors_H[:-1])
    negative = np.flatnonzero(curve.means_H < 0)
    sign_change = None
    if len(negative) and negative[0] > 0:
        right = int(negative[0])
        share = curve.means_H[right - 1] / (curve.means_H[right - 1] - curve.means_H[right])
        low, high = curve.distances_H[right - 1], curve.distances_H[right]
        sign_change = float(low + share * (high - low))
    return Monotonicity(int((steps > 0).sum()), float(steps[largest]), float(errors[largest]), sign_change)
