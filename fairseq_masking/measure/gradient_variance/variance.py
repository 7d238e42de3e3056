"""Theorem 1 of both papers: what a law of masks does to the variance of a sequence's gradient.

All variances are traces of covariance matrices, E||g - gbar||**2, as in 2010.06040, Appendix A.2; g(m) is the
gradient of a mask of one sequence, gbar its mean over uniform masks.

2010.06040, K independent masks against K disjoint ones:

    Eq. 6   g(m_1, ..., m_K) = 1/K sum_k g(m_k)
    Eq. 7   Var(g(m_1, ..., m_K)) = 1/K Var(g(m_1)) + (1 - 1/K) Cov(g(m_1), g(m_2))
    Eq. 8   Cov(g(m_1), g(m_2)) = E[(g(m_1) - gbar)^T (g(m_2) - gbar)]
    Eq. 9   gbar = E[g(m)], the same for both laws (Lemma 2)

2008.05333, Section 3.1-3.2, masks from any law with a weight w:

    Eq. 3-4   Var(w g) = E_x Var_M(w g | x) [mask variance] + Var_x(E_M[w g | x]) [sentence variance]
    Eq. 5-6   masks from another law than the uniform one, w = p_rand / p_prop
    Thm. 2    no law has a smaller mask variance than p(M) ~ ||g(M)||: (E_uniform ||g||)**2 - ||gbar||**2

The estimators are U-statistics of inner products g^T g' and so unbiased: gbar enters only as ||gbar||**2, the
mean inner product of gradients of different draws (of all ordered pairs d != d', never d = d'). A weight's
bias ||E[w g] - gbar||**2 is one as well. Of the unbiased weights the mean square is also known from uniform
masks, E_p[w^2 ||g||^2] = E_uniform[w ||g||^2]. There w enters once and few draws carry less of the mean: "by
uniform masks" below, and the better estimate. The direct one is mostly too small, and once in a while much
too large.

Shapes: D draws of K masks each, R bootstrap replicates. "Resampled" arrays [1 + R]: see statistics.py.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.measure.gradient_variance.statistics import (
    Resampled,
    mean_over_pairs,
    resampling_weights,
    weighted_mean,
)

__all__ = [
    "UNIFORM",
    "EstimatorVariance",
    "Key",
    "LawDraws",
    "LawMoments",
    "LawVariances",
    "MaskVariances",
    "compare_laws",
    "estimate_variances",
    "law_variances",
    "without_replacement_ratio",
]

Floats = npt.NDArray[np.float64]
Key = tuple[str, str]  # law and weight

UNIFORM: Key = ("uniform", "none")  # ordinary masked language modelling


class LawMoments(NamedTuple):
    """Inner products of the gradients of D draws of K masks.

    Attributes:
        squares_D: mean over k of ||g(m_k)||**2.
        products_D: mean over k != l of g(m_k)^T g(m_l), the pairs inside a draw.
        inner_DD: inner products of the K-mask gradients (Eq. 6) of two draws.
        num_masks: K.
    """

    squares_D: Floats
    products_D: Floats
    inner_DD: Floats
    num_masks: int

    @classmethod
    def from_gram(cls, inner_MM: Floats, num_masks: int) -> "LawMoments":
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


def law_variances(moments: LawMoments, weights: Floats) -> LawVariances:
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


class EstimatorVariance(NamedTuple):
    """One law with one weight on one sequence, or the mean over sequences; all resampled over draws.

    Attributes:
        direct: Var_M(w g) from the law's own draws.
        by_uniform: the same from uniform masks; NaN for a biased weight.
        mean_norm: ||E[w g]||**2.
        cross: E[w g]^T gbar.
        bias: ||E[w g] - gbar||**2.
        mean_weight: E[w].
        mean_square_weight: E[w**2], by uniform masks where the weight is unbiased.
        smallest: Theorem 2's bound on any law's mask variance, the same for all.
    """

    direct: Resampled
    by_uniform: Resampled
    mean_norm: Resampled
    cross: Resampled
    bias: Resampled
    mean_weight: Resampled
    mean_square_weight: Resampled
    smallest: Resampled

    @property
    def is_unbiased(self) -> bool:
        """Whether E[w g] is gbar for certain."""
        return not bool(np.isnan(self.by_uniform[0]))

    @property
    def mask_variance(self) -> Resampled:
        """The better estimate of Var_M(w g)."""
        return self.by_uniform if self.is_unbiased else self.direct


class LawDraws(NamedTuple):
    """What the estimators need of D draws of a law.

    Attributes:
        weights_D: by the weight's name.
        inner_DD: inner products of the gradients, without weights.
        cross_DD: those with the uniform law's gradients.
        weights_of_uniform_D: weights under this law of the uniform law's masks, unbiased weights only.
    """

    weights_D: dict[str, Floats]
    inner_DD: Floats
    cross_DD: Floats
    weights_of_uniform_D: dict[str, Floats]


def estimate_variances(
    draws: Mapping[str, LawDraws], *, num_replicates: int, rng: np.random.Generator
) -> dict[Key, EstimatorVariance]:
    """Estimate each law with each weight; the draws of each law are resampled by themselves."""
    uniform = draws["uniform"]
    squares_D = np.diag(uniform.inner_DD)
    uniform_counts = resampling_weights(len(squares_D), num_replicates, rng)
    gbar_norm = mean_over_pairs(uniform.inner_DD, uniform_counts)
    norms_D = np.sqrt(squares_D)
    smallest = mean_over_pairs(np.outer(norms_D, norms_D), uniform_counts) - gbar_norm
    found = {}
    for name, law in draws.items():
        is_uniform = law is uniform
        counts = uniform_counts if is_uniform else resampling_weights(len(law.inner_DD), num_replicates, rng)
        for weight, weights_D in law.weights_D.items():
            moments = LawMoments.from_gram(law.inner_DD * np.outer(weights_D, weights_D), 1)
            variances = law_variances(moments, counts)
            cross = gbar_norm
            if not is_uniform:
                weighted_DD = weights_D[:, None] * law.cross_DD
                cross = ((counts @ weighted_DD) * uniform_counts).sum(1) / weighted_DD.size
            by_uniform, square_weight = np.full_like(gbar_norm, np.nan), weighted_mean(weights_D**2, counts)
            if weight in law.weights_of_uniform_D:
                of_uniform_D = law.weights_of_uniform_D[weight]
                by_uniform = weighted_mean(of_uniform_D * squares_D, uniform_counts) - gbar_norm
                square_weight = weighted_mean(of_uniform_D, uniform_counts)
            found[name, weight] = EstimatorVariance(
                direct=variances.mask_variance,
                by_uniform=by_uniform,
                mean_norm=variances.mean_norm,
                cross=cross,
                bias=variances.mean_norm + gbar_norm - 2 * cross,
                mean_weight=weighted_mean(weights_D, counts),
                mean_square_weight=square_weight,
                smallest=smallest,
            )
    return found
