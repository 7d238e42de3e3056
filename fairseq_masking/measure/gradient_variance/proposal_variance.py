"""Theorem 1 of MAP-Net by brute force: what a law of masks and its weight do to the gradient's variance.

    Eq. 3-4   Var(w g) = E_x Var_M(w g | x) [mask variance] + Var_x(E_M[w g | x]) [sentence variance]
    Eq. 5-6   masks from another law than the uniform one, w = p_rand / p_prop
    Thm. 2    no law has a smaller mask variance than p(M) ~ ||g(M)||: (E_uniform ||g||)**2 - ||gbar||**2

g(M) is the gradient of the mean cross-entropy of a mask of one sequence, gbar its mean over uniform masks,
which every unbiased w g has as its mean too. Variances are traces of covariance matrices. The estimators are
U-statistics and unbiased (mask_variance.py); a weight's bias ||E[w g] - gbar||**2 is one as well.

Of the unbiased weights the mean square is also known from uniform masks, E_p[w^2 ||g||^2] = E_uniform[w
||g||^2]. There w enters once and few draws carry less of the mean: "by uniform masks" below, and the better
estimate. The direct one is mostly too small, and once in a while much too large.

Source: 2008.05333, Section 3.1-3.2.
Shapes: S sequences, D draws of a law, P parameters, R bootstrap replicates; "resampled" [1 + R].
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq_masking.measure.gradient_variance.gradients import Masks
from fairseq_masking.measure.gradient_variance.gram import inner_products
from fairseq_masking.measure.gradient_variance.mask_laws import (
    draw_masks,
    finite_weights,
    mask_weights,
    ordered_log_weights,
    set_log_weights,
)
from fairseq_masking.measure.gradient_variance.mask_measurement import Measurement
from fairseq_masking.measure.gradient_variance.mask_variance import LawMoments, law_variances
from fairseq_masking.measure.gradient_variance.resampling import (
    mean_over_pairs,
    resampling_weights,
    weighted_mean,
)

__all__ = [
    "UNIFORM",
    "EstimatorVariance",
    "LawDraws",
    "SequenceEstimators",
    "estimate_variances",
    "measure_proposals",
]

UNIFORM = ("uniform", "none")  # law and weight of ordinary masked language modelling

_NUM_ORDERS = 32  # of a uniform mask, over which the ordered weight is averaged

Floats = npt.NDArray[np.float64]
Key = tuple[str, str]


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

    direct: Floats
    by_uniform: Floats
    mean_norm: Floats
    cross: Floats
    bias: Floats
    mean_weight: Floats
    mean_square_weight: Floats
    smallest: Floats

    @property
    def is_unbiased(self) -> bool:
        """Whether E[w g] is gbar for certain."""
        return not bool(np.isnan(self.by_uniform[0]))

    @property
    def mask_variance(self) -> Floats:
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


class SequenceEstimators(NamedTuple):
    """``variances`` of a sequence by law and weight, and ``means_P``, the means of w g over the draws."""

    variances: dict[Key, EstimatorVariance]
    means_P: dict[Key, Tensor]


def measure_proposals(
    measurement: Measurement,
    sequences: Iterable[tuple[int, npt.NDArray[np.int64], Mapping[str, Floats]]],
    *,
    num_masked: int,
    num_draws: int,
    num_replicates: int,
    clip: float,
    num_kept: int = 0,
) -> Iterator[SequenceEstimators]:
    """Measure every law with every weight on each sequence: D gradients a law.

    Args:
        sequences: index, tokens, and by name log p ``[T]`` of the laws to hold against the uniform one.
        num_masked: k.
        num_draws: D, at least 3.
        clip: eps of the weight ``clipped``.
        num_kept: mean gradients that the caller keeps, counted against the memory.

    Raises:
        UserError: the memory does not hold the gradients of two laws.
    """
    measurement.rows_in_memory(num_kept + 2 * num_draws - 1)
    for index, tokens_T, laws in sequences:
        some_law_T = next(iter(laws.values()))
        log_uniform_T = np.where(some_law_T > -np.inf, -np.log((some_law_T > -np.inf).sum()), -np.inf)
        draws: dict[str, LawDraws] = {}
        means_P: dict[Key, Tensor] = {}
        rng = np.random.default_rng((measurement.config.seed, index))
        for stream, (name, log_p_T) in enumerate({"uniform": log_uniform_T, **laws}.items()):
            drawn = draw_masks(
                tokens_T,
                log_p_T,
                num_masked,
                measurement.config,
                measurement.vocabulary,
                index=index,
                num_masks=num_draws,
                stream=stream,
            )
            rows_DP = _gradients(measurement, tokens_T, drawn.masks)
            weights_D = mask_weights(log_p_T, drawn.columns_Mk, clip)
            if name == "uniform":
                weights_D = {"none": weights_D["none"]}  # all are 1
                uniform_DP, uniform_columns_Dk = rows_DP, drawn.columns_Mk
            draws[name] = LawDraws(
                weights_D,
                inner_products(rows_DP, rows_DP),
                inner_products(rows_DP, uniform_DP),
                _weights_of_uniform(log_p_T, uniform_columns_Dk, rng),
            )
            for weight, values_D in weights_D.items():
                means_P[name, weight] = torch.from_numpy(values_D / num_draws).to(rows_DP) @ rows_DP
        yield SequenceEstimators(estimate_variances(draws, num_replicates=num_replicates, rng=rng), means_P)


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
        is_uniform = name == "uniform"
        counts = uniform_counts if is_uniform else resampling_weights(len(law.inner_DD), num_replicates, rng)
        for weight, weights_D in law.weights_D.items():
            moments = LawMoments.from_gram(law.inner_DD * np.outer(weights_D, weights_D), 1)
            variances = law_variances(moments, counts)
            cross = gbar_norm
            if not is_uniform:
                weighted_DD = weights_D[:, None] * law.cross_DD
                cross = ((counts @ weighted_DD) * uniform_counts).sum(1) / weighted_DD.size
            by_uniform, square_weight = np.full_like(gbar_norm, np.nan), weighted_mean(weights_D**2, counts)
            if is_uniform:
                by_uniform = variances.mask_variance
            elif weight in law.weights_of_uniform_D:
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


def _gradients(measurement: Measurement, tokens_T: npt.NDArray[np.int64], masks: Masks) -> Tensor:
    gradient = measurement.gradients(tokens_T, masks)
    parameter = gradient.parameters[0]
    rows_DP = torch.empty(
        len(gradient), gradient.num_parameters, dtype=parameter.dtype, device=parameter.device
    )
    for mask in range(len(gradient)):
        rows_DP[mask] = gradient(mask)
    return rows_DP


def _weights_of_uniform(
    log_p_T: Floats, columns_Dk: npt.NDArray[np.int64], rng: np.random.Generator
) -> dict[str, Floats]:
    """Weights of given masks; the ordered one is the mean over uniformly random orders of each."""
    num_draws = len(columns_Dk)
    orders = rng.permuted(np.tile(columns_Dk, (_NUM_ORDERS, 1)), axis=1)
    ordered = finite_weights(ordered_log_weights(log_p_T, orders)).reshape(_NUM_ORDERS, num_draws)
    return {"set": finite_weights(set_log_weights(log_p_T, columns_Dk)), "ordered": ordered.mean(0)}
