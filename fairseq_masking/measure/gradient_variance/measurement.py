"""The measurements on a real model, each of one sequence: the gradients of many masks.

Shapes: T tokens, D draws, K masks of a draw, H distances, Q pairs, P parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskedItem, MaskingConfig, MaskingVocabulary
from fairseq_masking.measure.gradient_variance import laws
from fairseq_masking.measure.gradient_variance.covariance import pair_covariances
from fairseq_masking.measure.gradient_variance.draws import FixedSequence, covering_masks
from fairseq_masking.measure.gradient_variance.gradients import (
    LossScale,
    MaskGradient,
    gram_matrix,
    inner_products,
    mean_gradient,
    stack_gradients,
)
from fairseq_masking.measure.gradient_variance.variance import (
    EstimatorVariance,
    Key,
    LawDraws,
    LawMoments,
    MaskVariances,
    compare_laws,
    estimate_variances,
)

__all__ = [
    "Law",
    "Measurement",
    "SequenceEstimators",
    "SequenceVariances",
    "measure_distances",
    "measure_laws",
    "measure_splits",
    "measured_laws",
]

Tokens = npt.NDArray[np.int64]
Law = npt.NDArray[np.float64]  # log p [T]

_NUM_ORDERS = 32  # of a uniform mask, over which the ordered weight is averaged


@dataclass(frozen=True)
class Measurement:
    """What all of them are made on.

    Attributes:
        model: see ``MaskGradient``.
        parameters: see ``select_parameters``.
        config: rate, unit, K, corruption and seed of the masks.
        vocabulary: specials and replacements.
        scale: see ``MaskGradient``.
        memory: bytes for gradients; less costs time (``gram_matrix``).
    """

    model: nn.Module
    parameters: Sequence[nn.Parameter]
    config: MaskingConfig
    vocabulary: MaskingVocabulary
    scale: LossScale = "mean"
    memory: int = 2 << 30

    def sequence(self, index: int, tokens_T: Tokens) -> FixedSequence:
        """Return a sequence to draw masks of."""
        return FixedSequence(tokens_T, index, self.config, self.vocabulary)

    def gradients(self, tokens_T: Tokens, masks: MaskedItem) -> MaskGradient:
        """Return the gradients of masks of a sequence."""
        return MaskGradient(self.model, tokens_T, masks, self.parameters, self.scale)

    def rows_in_memory(self, num_kept: int) -> int:
        """Return how many gradients fit beside ``num_kept`` others.

        Raises:
            UserError: not even one.
        """
        row = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)
        rows = self.memory // row - num_kept
        if rows < 1:
            raise UserError(
                f"--memory {self.memory / 2**30:.3g} GiB holds {max(0, self.memory // row)} gradients of"
                f" {row / 2**30:.3g} GiB, but {num_kept + 1} are needed: raise it, take fewer --sequences,"
                " or choose some --parameters"
            )
        return rows


class SequenceVariances(NamedTuple):
    """``variances`` of one sequence, and ``mean_P``, the mean of all its gradients (Eq. 9)."""

    variances: MaskVariances
    mean_P: Tensor


def measure_splits(
    measurement: Measurement, sequence: FixedSequence, *, num_draws: int, num_replicates: int, num_kept: int = 0
) -> SequenceVariances:
    """Compare disjoint and independent masks of a sequence: D draws of K masks for each, 2 D K gradients.

    Args:
        num_draws: D, at least 3 (two give no spread to resample).
        num_kept: mean gradients that the caller keeps, counted against the memory.
    """
    rows, num_masks = measurement.rows_in_memory(num_kept), sequence.config.num_splits
    # The epochs of the independent masks are streams that the disjoint ones have not used.
    independent = sequence.independent_masks(num_draws * num_masks, first_epoch=num_draws + 1)
    grams = [
        gram_matrix(measurement.gradients(sequence.tokens_T, masks), len(masks.columns), rows)
        for masks in (independent, sequence.disjoint_masks(num_draws))
    ]
    moments = [LawMoments.from_gram(gram.inner_MM, num_masks) for gram in grams]
    rng = np.random.default_rng((sequence.config.seed, sequence.index))
    variances = compare_laws(*moments, num_replicates=num_replicates, rng=rng)
    return SequenceVariances(variances, (grams[0].mean_P + grams[1].mean_P) / 2)


def measure_distances(
    measurement: Measurement, sequence: FixedSequence, distances: Sequence[int], *, num_pairs: int, num_reference: int
) -> npt.NDArray[np.float64]:
    """Measure the covariance of mask pairs of a sequence at each distance, and of independent pairs.

    Args:
        num_pairs: Q pairs of masks for each distance.
        num_reference: independent masks for each of the two estimates of gbar.

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
    """Measure every law with every weight on a sequence: D gradients a law.

    Args:
        others: by name log p ``[T]`` of the laws to hold against the uniform one.
        num_masked: k.
        num_draws: D, at least 3.
        clip: eps of the weight ``clipped``.
        num_kept: mean gradients that the caller keeps, counted against the memory.

    Raises:
        UserError: the memory does not hold the gradients of two laws.
    """
    measurement.rows_in_memory(num_kept + 2 * num_draws - 1)
    maskable_T = next(iter(others.values())) > -np.inf
    uniform_T = np.where(maskable_T, -np.log(maskable_T.sum()), -np.inf)
    found: dict[str, LawDraws] = {}
    means_P: dict[Key, Tensor] = {}
    rng = np.random.default_rng((sequence.config.seed, sequence.index))
    for stream, (name, log_p_T) in enumerate({"uniform": uniform_T, **others}.items()):
        drawn = sequence.draw_masks(log_p_T, num_masked, num_masks=num_draws, stream=stream)
        gradients = measurement.gradients(sequence.tokens_T, drawn.masks)
        rows_DP = stack_gradients(gradients, range(num_draws))
        weights_D = laws.mask_weights(log_p_T, drawn.columns_Mk, clip)
        if name == "uniform":
            weights_D = {"none": weights_D["none"]}  # all are 1
            uniform_DP, uniform_columns_Dk = rows_DP, drawn.columns_Mk
        of_uniform_D = _weights_of_uniform(log_p_T, uniform_columns_Dk, rng)
        found[name] = LawDraws(
            weights_D,
            inner_products(rows_DP, rows_DP),
            inner_products(rows_DP, uniform_DP),
            weights_D if name == "uniform" else of_uniform_D,
        )
        for weight, values_D in weights_D.items():
            means_P[name, weight] = torch.from_numpy(values_D / num_draws).to(rows_DP) @ rows_DP
    return SequenceEstimators(estimate_variances(found, num_replicates=num_replicates, rng=rng), means_P)


def measured_laws(
    measurement: Measurement, sequence: FixedSequence, num_masked: int, *, oracle_rounds: int, gradient_rounds: int
) -> dict[str, Law]:
    """Return log p of the laws other than the uniform one: proposal, if there is one, and oracles.

    Args:
        oracle_rounds: times that each position's loss is measured.
        gradient_rounds: times that each position's gradient norm is measured; 0: no gradient oracle.
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


def _weights_of_uniform(
    log_p_T: Law, columns_Dk: npt.NDArray[np.int64], rng: np.random.Generator
) -> dict[str, npt.NDArray[np.float64]]:
    """Weights of given masks; the ordered one is the mean over uniformly random orders of each."""
    num_draws = len(columns_Dk)
    orders = rng.permuted(np.tile(columns_Dk, (_NUM_ORDERS, 1)), axis=1)
    weights = laws.finite_weights(laws.ordered_log_weights(log_p_T, orders))
    ordered_D = weights.reshape(_NUM_ORDERS, num_draws).mean(0)
    return {"set": laws.finite_weights(laws.set_log_weights(log_p_T, columns_Dk)), "ordered": ordered_D}
