"""Variances as U-statistics of inner products of gradients, their bootstrap intervals, and rows of those.

All variances are traces of covariance matrices, E||g - gbar||**2, as in 2010.06040, Appendix A.2; g(m) is the
gradient of a mask of one sequence, gbar its mean over uniform masks. gbar enters only as ||gbar||**2, the mean
inner product of gradients of different draws (of all ordered pairs d != d', never d = d'): unbiased.

A *resampled* quantity is a float64 array [1 + R]: the estimate, then R bootstrap replicates. Sums, products
and ratios of such arrays are resampled quantities again, so an interval of any of them is one call.

A row is a quantity, what it is of, the equation it estimates, its value and 95% interval. Intervals are over
draws or pairs of masks for the given sequences; those of Eq. 5, of the sentence variance, of totals and of
what is said of the laws themselves are over the sequences.
Shapes: D draws of K masks each, S sequences, R bootstrap replicates.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq_masking.figures.tables import format_table
from fairseq_masking.measure.gradient_variance.gradients import inner_products

__all__ = [
    "Interval", "LawMoments", "LawVariances", "Quantity", "Resampled", "Row", "average", "inner_products_of",
    "interval", "law_variances", "mean_over_pairs", "resampling_weights", "row_table", "rows_of",
    "sentence_variance", "weighted_mean",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Resampled = npt.NDArray[np.float64]
Row = dict[str, Any]


class Interval(NamedTuple):
    """An estimate with its standard error and percentile interval; a number that is known has none."""

    estimate: float
    standard_error: float | str = ""
    low: float | str = ""
    high: float | str = ""


Quantity = tuple[str, str, Resampled | Interval]  # name, equation, values


def resampling_weights(size: int, num_replicates: int, rng: np.random.Generator) -> Floats:
    """Return float64 ``[1 + R, size]``: a row of ones, then how often a resample takes each of the draws."""
    resamples = rng.multinomial(size, np.full(size, 1.0 / size), size=num_replicates)
    return np.concatenate((np.ones((1, size)), resamples))


def weighted_mean(values: npt.ArrayLike, weights: Floats) -> Resampled:
    """Return the mean of ``values [D]`` under each row of ``weights [1 + R, D]``."""
    return weights @ np.asarray(values) / weights.sum(1)


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


def interval(resampled: Resampled) -> Interval:
    """Return the estimate, the replicates' standard deviation and their central 95%."""
    replicates = resampled[1:]
    low, high = np.nanquantile(replicates, (0.025, 0.975))
    return Interval(float(resampled[0]), float(np.nanstd(replicates, ddof=1)), float(low), float(high))


def average(parts: Sequence[Any]) -> Any:
    """Average named tuples of resampled quantities over sequences, whose draws are independent."""
    if isinstance(parts[0], np.ndarray):
        return np.mean(parts, axis=0)
    return type(parts[0])(*(average(same) for same in zip(*parts, strict=True)))


class LawMoments(NamedTuple):
    """Inner products of the gradients of D draws of K masks."""

    squares_D: Floats  # mean over k of ||g(m_k)||**2
    products_D: Floats  # mean over k != l of g(m_k)^T g(m_l), the pairs inside a draw
    inner_DD: Floats  # inner products of the K-mask gradients (Eq. 6) of two draws

    @classmethod
    def from_gram(cls, inner_MM: Floats, num_masks: int) -> "LawMoments":
        """Reduce the inner products of M = D * K gradients, those of a draw next to each other."""
        num_draws = len(inner_MM) // num_masks
        inner_DKDK = inner_MM.reshape(num_draws, num_masks, num_draws, num_masks)
        within_DKK = inner_DKDK[np.arange(num_draws), :, np.arange(num_draws), :]
        squares_D = within_DKK.trace(axis1=1, axis2=2)
        products_D = (within_DKK.sum((1, 2)) - squares_D) / max(1, num_masks * (num_masks - 1))
        return cls(squares_D / num_masks, products_D, inner_DKDK.mean((1, 3)))


class LawVariances(NamedTuple):
    """Unbiased estimates for one law, resampled over its draws."""

    mask_variance: Resampled  # Var(g(m_1)), mean ||g(m_k)||**2 minus ||gbar||**2
    mask_covariance: Resampled  # Eq. 8, mean g(m_k)^T g(m_l) over k != l of a draw, minus ||gbar||**2
    # the left side of Eq. 7, of Eq. 6's gradient: its mean square minus ||gbar||**2, which is the sample variance with
    # divisor D - 1.
    variance: Resampled
    mean_norm: Resampled  # ||gbar||**2, the mean inner product of Eq. 6's gradients of different draws


def law_variances(moments: LawMoments, weights: Floats) -> LawVariances:
    """Estimate a law's variances from its draws, under each row of ``weights [1 + R, D]``."""
    mean_norm = mean_over_pairs(moments.inner_DD, weights)
    means = (moments.squares_D, moments.products_D, np.diag(moments.inner_DD))
    return LawVariances._make([*(weighted_mean(values_D, weights) - mean_norm for values_D in means), mean_norm])


def sentence_variance(mean_norms_S: npt.ArrayLike, inner_SS: Floats, weights: Floats) -> Resampled:
    """Estimate Var_x(gbar) without bias, under each row of ``weights [1 + R, S]``.

    Args:
        mean_norms_S: unbiased estimates of ||gbar||**2 of each sequence (``LawVariances.mean_norm``): the
            squared norm of an estimated gbar would add its own mask variance.
        inner_SS: inner products of the sequences' estimated gbar; only those of different ones are read.
    """
    return weighted_mean(mean_norms_S, weights) - mean_over_pairs(inner_SS, weights)


def inner_products_of(means_P: Sequence[Tensor]) -> Floats:
    """Return float64 ``[S, S]``, for ``sentence_variance``, of S vectors ``[P]``."""
    means_SP = torch.stack(list(means_P))
    return inner_products(means_SP, means_SP)


def rows_of(of: Row, quantities: Sequence[Quantity]) -> list[Row]:
    """Return a row for each quantity; each begins with ``of``."""
    found = [(name, equation, v if isinstance(v, Interval) else interval(v)) for name, equation, v in quantities]
    return [{**of, "quantity": name, "equation": equation, **values._asdict()} for name, equation, values in found]


def row_table(rows: Sequence[Row]) -> str:
    """Return the rows as they are; of splits only those of the mean and each sequence's ratio."""
    shown = [r for r in rows if str(r.get("sequence", "mean")).startswith("mean") or r["quantity"] == "ratio"]
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in shown]
    return format_table(list(shown[0]), cells)
