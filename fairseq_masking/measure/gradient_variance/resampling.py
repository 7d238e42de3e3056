"""Bootstrap intervals, by carrying an estimate and its replicates through the same arithmetic.

A *resampled* quantity is a float64 array [1 + R]: the estimate, then R bootstrap replicates. Sums, products
and ratios of such arrays are resampled quantities again, so an interval of any of them is one call.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "interval", "mean_over_pairs", "resampling_weights", "weighted_mean"]


class Interval(NamedTuple):
    """An estimate with its standard error and percentile interval."""

    estimate: float
    standard_error: float
    low: float
    high: float


def resampling_weights(size: int, num_replicates: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return float64 ``[1 + R, size]``: a row of ones, then how often a resample takes each of the draws."""
    resamples = rng.multinomial(size, np.full(size, 1.0 / size), size=num_replicates)
    return np.concatenate((np.ones((1, size)), resamples.astype(np.float64)))


def weighted_mean(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean of ``values [D]`` under each row of ``weights [1 + R, D]``."""
    return weights @ values / weights.sum(1)


def mean_over_pairs(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean of ``values [D, D]`` over pairs of *different* draws under each row of ``weights``.

    A resample's pairs of one draw with its own copy are left out as well: they would bring the diagonal back
    and bias the replicates.
    """
    off_diagonal = values - np.diag(np.diag(values))
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    # A resample of copies of one draw has no pairs: it happens for a handful of draws and counts for nothing.
    with np.errstate(invalid="ignore"):
        return np.einsum("rd,de,re->r", weights, off_diagonal, weights, optimize=True) / pairs


def interval(resampled: npt.NDArray[np.float64], level: float = 0.95) -> Interval:
    """Return the estimate, the replicates' standard deviation and their central ``level``."""
    replicates = resampled[1:]
    tail = (1.0 - level) / 2.0
    low, high = np.nanquantile(replicates, (tail, 1.0 - tail))
    return Interval(float(resampled[0]), float(np.nanstd(replicates, ddof=1)), float(low), float(high))
