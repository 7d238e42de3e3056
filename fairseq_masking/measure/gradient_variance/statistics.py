"""Bootstrap intervals, and Eq. 5 of 2010.06040: what the masks and what the sentences add to the variance.

A *resampled* quantity is a float64 array [1 + R]: the estimate, then R bootstrap replicates. Sums, products
and ratios of such arrays are resampled quantities again, so an interval of any of them is one call.

Eq. 5 at equal rows (spec/fully_explored_mlm.md, "Same compute"): of R rows of a batch, K masks of a sequence
leave R / K sequences:

    one mask of R sequences         Var(g(m_1)) / R                        + Var_x(gbar) / R
    K independent masks of R / K    Var(g(m_1)) / R                        + K Var_x(gbar) / R
    K disjoint masks of R / K       K Var(g(m_1, ..., m_K)) / R, Eq. 7     + K Var_x(gbar) / R

The first column falls with disjoint masks; the second rises with K, as there are 1/K as many sequences. A
claim about the total has to hold the one against the other.
Shapes: D draws, S sequences, R bootstrap replicates.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "BatchVariance",
    "Interval",
    "Resampled",
    "average",
    "batch_variances",
    "interval",
    "mean_over_pairs",
    "resampling_weights",
    "sentence_variance",
    "weighted_mean",
]

Floats = npt.NDArray[np.float64]
Resampled = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its standard error and percentile interval; a number that is known has none."""

    estimate: float
    standard_error: float | str = ""
    low: float | str = ""
    high: float | str = ""


def resampling_weights(size: int, num_replicates: int, rng: np.random.Generator) -> Floats:
    """Return float64 ``[1 + R, size]``: a row of ones, then how often a resample takes each of the draws."""
    resamples = rng.multinomial(size, np.full(size, 1.0 / size), size=num_replicates)
    return np.concatenate((np.ones((1, size)), resamples.astype(np.float64)))


def weighted_mean(values: Floats, weights: Floats) -> Resampled:
    """Return the mean of ``values [D]`` under each row of ``weights [1 + R, D]``."""
    return weights @ values / weights.sum(1)


def mean_over_pairs(values: Floats, weights: Floats) -> Resampled:
    """Return the mean of ``values [D, D]`` over pairs of *different* draws under each row of ``weights``.

    A resample's pairs of one draw with its own copy are left out as well: they would bring the diagonal back
    and bias the replicates.
    """
    off_diagonal = values - np.diag(np.diag(values))
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    # A resample of copies of one draw has no pairs: it happens for a handful of draws and counts for nothing.
    with np.errstate(invalid="ignore"):
        return np.einsum("rd,de,re->r", weights, off_diagonal, weights, optimize=True) / pairs


def interval(resampled: Resampled, level: float = 0.95) -> Interval:
    """Return the estimate, the replicates' standard deviation and their central ``level``."""
    replicates = resampled[1:]
    tail = (1.0 - level) / 2.0
    low, high = np.nanquantile(replicates, (tail, 1.0 - tail))
    return Interval(float(resampled[0]), float(np.nanstd(replicates, ddof=1)), float(low), float(high))


def average(parts: Sequence[Any]) -> Any:
    """Average named tuples of resampled quantities over sequences.

    Draws of different sequences are independent, so are their replicates.
    """
    if isinstance(parts[0], np.ndarray):
        return np.mean(parts, axis=0)
    return type(parts[0])(*(average(same) for same in zip(*parts, strict=True)))


def sentence_variance(mean_norms_S: Floats, inner_SS: Floats, weights: Floats) -> Resampled:
    """Estimate Var_x(gbar) without bias.

    Args:
        mean_norms_S: unbiased estimates of ||gbar||**2 of each sequence (``LawVariances.mean_norm``): the
            squared norm of an estimated gbar would add its own mask variance.
        inner_SS: inner products of the sequences' estimated gbar; only those of different ones are read.
        weights: ``[1 + R, S]``.
    """
    return weighted_mean(mean_norms_S, weights) - mean_over_pairs(inner_SS, weights)


class BatchVariance(NamedTuple):
    """The two terms of Eq. 5 times R, the number of rows; resampled over sequences."""

    mask_term: Resampled
    sentence_term: Resampled

    @property
    def total(self) -> Resampled:
        """Their sum, Eq. 5."""
        return self.mask_term + self.sentence_term


def batch_variances(
    mask_variances_S: Floats,
    disjoint_variances_S: Floats,
    mean_norms_S: Floats,
    inner_SS: Floats,
    weights: Floats,
    *,
    num_masks: int,
) -> dict[str, BatchVariance]:
    """Estimate both terms for the three ways to fill a batch.

    Args:
        mask_variances_S: Var(g(m_1)) of each sequence.
        disjoint_variances_S: variance of the gradient of K disjoint masks of each sequence.
        mean_norms_S: see ``sentence_variance``, as are ``inner_SS`` and ``weights``.

    Returns:
        By name: ``one_mask``, ``independent``, ``disjoint``.
    """
    sentences = sentence_variance(mean_norms_S, inner_SS, weights)
    mask_term = weighted_mean(mask_variances_S, weights)
    disjoint_term = num_masks * weighted_mean(disjoint_variances_S, weights)
    return {
        "one_mask": BatchVariance(mask_term, sentences),
        "independent": BatchVariance(mask_term, num_masks * sentences),
        "disjoint": BatchVariance(disjoint_term, num_masks * sentences),
    }
