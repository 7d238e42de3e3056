"""The variance of the K-mask gradient under independent and disjoint masks of one sequence (Theorem 1).

All variances are traces of covariance matrices, E||g - gbar||**2, as in the paper's Appendix A.2.

    Eq. 6   g(m_1, ..., m_K) = 1/K sum_k g(m_k)
    Eq. 7   Var(g(m_1, ..., m_K)) = 1/K Var(g(m_1)) + (1 - 1/K) Cov(g(m_1), g(m_2))
    Eq. 8   Cov(g(m_1), g(m_2)) = E[(g(m_1) - gbar)^T (g(m_2) - gbar)]
    Eq. 9   gbar = E[g(m)], the same for both laws (Lemma 2)

The estimators are U-statistics of inner products g^T g' and so unbiased: gbar enters only as ||gbar||**2, the
mean inner product of gradients of different draws (of all ordered pairs d != d', never d = d').

Shapes: D draws of K masks each, R bootstrap replicates. "Resampled" arrays [1 + R]: see resampling.py.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.measure.gradient_variance.resampling import (
    mean_over_pairs,
    resampling_weights,
    weighted_mean,
)

__all__ = [
    "LawMoments",
    "LawVariances",
    "MaskVariances",
    "compare_laws",
    "law_variances",
    "without_replacement_ratio",
]

Resampled = npt.NDArray[np.float64]


class LawMoments(NamedTuple):
    """Inner products of the gradients of D draws of K masks.

    Attributes:
        squares_D: mean over k of ||g(m_k)||**2.
        products_D: mean over k != l of g(m_k)^T g(m_l), the pairs inside a draw.
        inner_DD: inner products of the K-mask gradients (Eq. 6) of two draws.
        num_masks: K.
    """

    squares_D: npt.NDArray[np.float64]
    products_D: npt.NDArray[np.float64]
    inner_DD: npt.NDArray[np.float64]
    num_masks: int

    @classmethod
    def from_gram(cls, inner_MM: npt.NDArray[np.float64], num_masks: int) -> "LawMoments":
        """Reduce the inner products of M = D * K gradients, those of a draw next to each other."""
        num_draws = inner_MM.shape[0] // num_masks
        inner_DKDK = inner_MM.reshape(num_draws, num_masks, num_draws, num_masks)
        within_DKK = inner_DKDK[np.arange(num_draws), :, np.arange(num_draws), :]
        squares_D = within_DKK.trace(axis1=1, axis2=2)
        products_D = (within_DKK.sum((1, 2)) - squares_D) / max(1, num_masks * (num_masks - 1))
        return cls(squares_D / num_masks, products_D, inner_DKDK.mean((1, 3)), num_masks)


class LawVariances(NamedTuple):
    """Unbiased estimates for one law, resampled over its draws.

    Attributes:
        mask_variance: Var(g(m_1)), mean ||g(m_k)||**2 minus ||gbar||**2.
        mask_covariance: Eq. 8, mean g(m_k)^T g(m_l) over k != l of a draw, minus ||gbar||**2.
        variance: the left side of Eq. 7, of Eq. 6's gradient: its mean square minus ||gbar||**2, which is
            the sample variance with divisor D - 1.
        mean_norm: ||gbar||**2, the mean inner product of Eq. 6's gradients of different draws.
    """

    mask_variance: Resampled
    mask_covariance: Resampled
    variance: Resampled
    mean_norm: Resampled


def law_variances(moments: LawMoments, weights: npt.NDArray[np.float64]) -> LawVariances:
    """Estimate a law's variances from its draws, under each row of ``weights [1 + R, D]``."""
    mean_norm = mean_over_pairs(moments.inner_DD, weights)
    return LawVariances(
        mask_variance=weighted_mean(moments.squares_D, weights) - mean_norm,
        mask_covariance=weighted_mean(moments.products_D, weights) - mean_norm,
        variance=weighted_mean(np.diag(moments.inner_DD), weights) - mean_norm,
        mean_norm=mean_norm,
    )


class MaskVariances(NamedTuple):
    """Both laws on one sequence, and Eq. 7 for each from parts that the left side does not share.

    With all parts from the same draws Eq. 7 is an identity of the estimators and would show nothing. Here
    the right side takes Var(g(m_1)) and gbar from the independent law's draws; of the disjoint law it takes
    only the products inside a draw, so it holds only as far as Lemma 2 and Lemma 3 do. For the independent
    law the right side has covariance 0.
    """

    independent: LawVariances
    disjoint: LawVariances
    independent_by_eq7: Resampled
    disjoint_by_eq7: Resampled


def compare_laws(
    independent: LawMoments, disjoint: LawMoments, *, num_replicates: int, rng: np.random.Generator
) -> MaskVariances:
    """Estimate both laws of one sequence; draws are resampled, of each law by itself."""
    assert independent.num_masks == disjoint.num_masks
    num_masks = independent.num_masks
    weights = resampling_weights(len(independent.squares_D), num_replicates, rng)
    disjoint_weights = resampling_weights(len(disjoint.squares_D), num_replicates, rng)
    plain = law_variances(independent, weights)
    covariance = weighted_mean(disjoint.products_D, disjoint_weights) - plain.mean_norm  # Eq. 8
    return MaskVariances(
        independent=plain,
        disjoint=law_variances(disjoint, disjoint_weights),
        independent_by_eq7=plain.mask_variance / num_masks,
        disjoint_by_eq7=plain.mask_variance / num_masks + (1 - 1 / num_masks) * covariance,
    )


def without_replacement_ratio(num_maskable: int, num_masked: int, num_masks: int) -> float:
    """Return the variance ratio of disjoint to independent masks if g(m) were a sum over masked positions.

    If a position's gradient did not depend on what else is masked, K disjoint masks would be one sample of
    K * tau positions without replacement: (m - K tau) / (m - tau). Not in the paper; measured ratios above it
    show how much the context matters.
    """
    return (num_maskable - num_masks * num_masked) / (num_maskable - num_masked)
