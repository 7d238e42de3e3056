"""Theorem 1 and 2 of 2008.05333: the variance of the gradient with masks from any law, with a weight w.

    Eq. 3-4   Var(w g) = E_x Var_M(w g | x) [mask variance] + Var_x(E_M[w g | x]) [sentence variance]
    Eq. 5-6   masks from another law than the uniform one, w = p_rand / p_prop
    Thm. 2    no law has a smaller mask variance than p(M) ~ ||g(M)||: (E_uniform ||g||)**2 - ||gbar||**2

A weight's bias ||E[w g] - gbar||**2 is a U-statistic as well. Of the unbiased weights the mean square is also
known from uniform masks, E_p[w^2 ||g||^2] = E_uniform[w ||g||^2]. There w enters once and few draws carry less
of the mean: "by uniform masks" below, and the better estimate. The direct one is mostly too small, and once in
a while much too large.

Shapes: T tokens, D draws of a mask each, P parameters. "Resampled" arrays: see statistics.py.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairseq_masking.measure.gradient_variance import laws, statistics
from fairseq_masking.measure.gradient_variance.draws import FixedSequence, covering_masks
from fairseq_masking.measure.gradient_variance.gradients import Measurement, inner_products, stack_gradients
from fairseq_masking.measure.gradient_variance.statistics import Floats, LawMoments, Resampled

__all__ = [
    "UNIFORM", "EstimatorVariance", "Key", "LawDraws", "SequenceEstimators", "estimate_variances", "measure_laws",
    "measured_laws",
]  # fmt: skip

Law = Floats  # log p [T]
Key = tuple[str, str]  # law and weight

UNIFORM: Key = ("uniform", "none")  # ordinary masked language modelling
_NUM_ORDERS = 32  # of a uniform mask, over which the ordered weight is averaged


class EstimatorVariance(NamedTuple):
    """One law with one weight on one sequence, or the mean over sequences; all resampled over draws."""

    direct: Resampled  # Var_M(w g) from the law's own draws
    by_uniform: Resampled  # the same from uniform masks; NaN for a biased weight
    mean_norm: Resampled  # ||E[w g]||**2
    cross: Resampled  # E[w g]^T gbar
    bias: Resampled  # ||E[w g] - gbar||**2
    mean_weight: Resampled  # E[w]
    mean_square_weight: Resampled  # E[w**2], by uniform masks where the weight is unbiased
    smallest: Resampled  # Theorem 2's bound on any law's mask variance, the same for all

    @property
    def is_unbiased(self) -> bool:
        """Whether E[w g] is gbar for certain."""
        return not np.isnan(self.by_uniform[0])

    @property
    def mask_variance(self) -> Resampled:
        """The better estimate of Var_M(w g)."""
        return self.by_uniform if self.is_unbiased else self.direct


class LawDraws(NamedTuple):
    """What the estimators need of D draws of a law."""

    weights_D: dict[str, Floats]  # by the weight's name
    inner_DD: Floats  # inner products of the gradients, without weights
    cross_DD: Floats  # those with the uniform law's gradients
    weights_of_uniform_D: dict[str, Floats]  # weights under this law of the uniform law's masks, unbiased weights only


class SequenceEstimators(NamedTuple):
    """``variances`` of a sequence by law and weight, and ``means_P``, the means of w g over the draws."""

    variances: dict[Key, EstimatorVariance]
    means_P: dict[Key, Tensor]


def measure_laws(
    measurement: Measurement,
    sequence: FixedSequence,
    others: Mapping[str, Law],
    *,
    num_masked: int,
    num_draws: int,
    num_replicates: int,
    clip: float,
    num_kept: int = 0,
) -> SequenceEstimators:
    """Measure every law with every weight on a sequence: D gradients a law, D at least 3.

    ``others`` are held against the uniform law; ``clip`` is eps of the weight ``clipped``; ``num_kept`` mean gradients
    that the caller keeps count against the memory, which is a ``UserError`` where it does not hold those of two laws.
    """
    measurement.rows_in_memory(num_kept + 2 * num_draws - 1)
    maskable_T = next(iter(others.values())) > -np.inf
    uniform_T = np.where(maskable_T, -np.log(maskable_T.sum()), -np.inf)
    found: dict[str, LawDraws] = {}
    means_P: dict[Key, Tensor] = {}
    rng = np.random.default_rng((sequence.config.seed, sequence.index))
    for stream, (name, log_p_T) in enumerate({"uniform": uniform_T, **others}.items()):
        drawn = sequence.draw_masks(log_p_T, num_masked, num_masks=num_draws, stream=stream)
        rows_DP = stack_gradients(measurement.gradients(sequence.tokens_T, drawn.masks), range(num_draws))
        weights_D = laws.mask_weights(log_p_T, drawn.columns_Mk, clip)
        if name == "uniform":
            weights_D = {"none": weights_D["none"]}  # all are 1
            uniform_DP, uniform_columns_Dk = rows_DP, drawn.columns_Mk
        # Weights of the uniform law's masks; the ordered one is the mean over uniformly random orders of each.
        orders = rng.permuted(np.tile(uniform_columns_Dk, (_NUM_ORDERS, 1)), axis=1)
        ordered = laws.finite_weights(laws.ordered_log_weights(log_p_T, orders)).reshape(_NUM_ORDERS, -1).mean(0)
        in_sets = laws.finite_weights(laws.set_log_weights(log_p_T, uniform_columns_Dk))
        of_uniform_D = {"set": in_sets, "ordered": ordered}
        inner_DD, cross_DD = inner_products(rows_DP, rows_DP), inner_products(rows_DP, uniform_DP)
        found[name] = LawDraws(weights_D, inner_DD, cross_DD, weights_D if name == "uniform" else of_uniform_D)
        for weight, values_D in weights_D.items():
            means_P[name, weight] = torch.from_numpy(values_D / num_draws).to(rows_DP) @ rows_DP
    return SequenceEstimators(estimate_variances(found, num_replicates=num_replicates, rng=rng), means_P)


def measured_laws(
    measurement: Measurement, sequence: FixedSequence, num_masked: int, *, oracle_rounds: int, gradient_rounds: int
) -> dict[str, Law]:
    """Return log p of the laws other than the uniform one: proposal, if there is one, and oracles.

    Rounds are how often each position's loss and gradient norm are measured; 0: no gradient oracle.
    """
    model: Any = measurement.model
    tokens_T, columns_n = sequence.tokens_T, sequence.columns_m
    maskable_T = np.isin(np.arange(len(tokens_T)), columns_n)
    rng = np.random.default_rng((sequence.config.seed, sequence.index, num_masked))
    covering = partial(covering_masks, columns_n, num_masked, sequence.vocabulary.mask_index, rng=rng)
    found = {}
    if hasattr(model, "propose"):
        with torch.no_grad():
            log_p_T = model.eval().propose(torch.from_numpy(tokens_T.copy())[None])[0].double()
        found["proposal"] = (log_p_T - log_p_T.logsumexp(0)).numpy()
    losses_T = laws.losses_of_positions(model, tokens_T, covering(num_rounds=oracle_rounds))
    found["loss oracle"] = laws.law_proportional_to(losses_T, maskable_T)
    if gradient_rounds:
        masks = covering(num_rounds=gradient_rounds)
        norms_T = laws.gradient_norms_of_positions(model, tokens_T, masks, measurement.parameters)
        found["gradient oracle"] = laws.law_proportional_to(norms_T, maskable_T)
    return found


def estimate_variances(
    draws: Mapping[str, LawDraws], *, num_replicates: int, rng: np.random.Generator
) -> dict[Key, EstimatorVariance]:
    """Estimate each law with each weight; the draws of each law are resampled by themselves."""
    uniform = draws["uniform"]
    squares_D = np.diag(uniform.inner_DD)
    uniform_counts = statistics.resampling_weights(len(squares_D), num_replicates, rng)
    gbar_norm = statistics.mean_over_pairs(uniform.inner_DD, uniform_counts)
    norms_D = np.sqrt(squares_D)
    smallest = statistics.mean_over_pairs(np.outer(norms_D, norms_D), uniform_counts) - gbar_norm
    found = {}
    for name, law in draws.items():
        is_uniform, counts = law is uniform, uniform_counts
        if not is_uniform:
            counts = statistics.resampling_weights(len(law.inner_DD), num_replicates, rng)
        for weight, weights_D in law.weights_D.items():
            moments = LawMoments.from_gram(law.inner_DD * np.outer(weights_D, weights_D), 1)
            direct, _, _, mean_norm = statistics.law_variances(moments, counts)
            cross = gbar_norm
            if not is_uniform:
                weighted_DD = weights_D[:, None] * law.cross_DD
                cross = ((counts @ weighted_DD) * uniform_counts).sum(1) / weighted_DD.size
            by_uniform, square_weight = np.full_like(gbar_norm, np.nan), statistics.weighted_mean(weights_D**2, counts)
            if (of_uniform_D := law.weights_of_uniform_D.get(weight)) is not None:
                by_uniform = statistics.weighted_mean(of_uniform_D * squares_D, uniform_counts) - gbar_norm
                square_weight = statistics.weighted_mean(of_uniform_D, uniform_counts)
            found[name, weight] = EstimatorVariance(
                *(direct, by_uniform, mean_norm, cross),
                bias=mean_norm + gbar_norm - 2 * cross,
                mean_weight=statistics.weighted_mean(weights_D, counts),
                mean_square_weight=square_weight,
                smallest=smallest,
            )
    return found
