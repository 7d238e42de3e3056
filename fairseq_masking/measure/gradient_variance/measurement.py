"""The measurements on a real model: sequence by sequence, the gradients of many masks.

Shapes: S sequences, T tokens, D draws, K masks of a draw, H distances, Q pairs, P parameters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskedItem, MaskingConfig, MaskingVocabulary
from fairseq_masking.measure.gradient_variance import draws, laws
from fairseq_masking.measure.gradient_variance.covariance import pair_covariances
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

    def gradients(self, tokens_T: Tokens, masks: MaskedItem) -> MaskGradient:
        """Return the gradients of masks of a sequence."""
        return MaskGradient(self.model, tokens_T, masks, self.parameters, scale=self.scale)

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
    measurement: Measurement,
    sequences: Iterable[tuple[int, Tokens]],
    *,
    num_draws: int,
    num_replicates: int,
    num_kept: int = 0,
) -> Iterator[SequenceVariances]:
    """Compare disjoint and independent masks of each sequence: D draws of K masks for each, 2 D K gradients.

    Args:
        sequences: pairs of index and tokens.
        num_draws: D, at least 3 (two give no spread to resample).
        num_kept: mean gradients that the caller keeps, counted against the memory.
    """
    config, vocabulary = measurement.config, measurement.vocabulary
    rows = measurement.rows_in_memory(num_kept)
    for index, tokens_T in sequences:
        disjoint = draws.disjoint_masks(tokens_T, config, vocabulary, index=index, num_draws=num_draws)
        independent = draws.independent_masks(
            tokens_T, config, vocabulary, index=index, num_masks=num_draws * config.num_splits,
            first_epoch=num_draws + 1,  # streams that the disjoint masks have not used
        )  # fmt: skip
        grams = [
            gram_matrix(measurement.gradients(tokens_T, masks), len(masks.columns), rows)
            for masks in (independent, disjoint)
        ]
        moments = [LawMoments.from_gram(gram.inner_MM, config.num_splits) for gram in grams]
        rng = np.random.default_rng((config.seed, index))
        variances = compare_laws(*moments, num_replicates=num_replicates, rng=rng)
        yield SequenceVariances(variances, (grams[0].mean_P + grams[1].mean_P) / 2)


def measure_distances(
    measurement: Measurement,
    sequences: Iterable[tuple[int, Tokens]],
    distances: Sequence[int],
    *,
    num_pairs: int,
    num_reference: int,
) -> npt.NDArray[np.float64]:
    """Measure the covariance of mask pairs of each sequence at each distance, and of independent pairs.

    Args:
        num_pairs: Q pairs of masks for each distance.
        num_reference: independent masks for each of the two estimates of gbar.

    Returns:
        float64 ``[H + 1, S, Q]``; the last row, of independent masks, has mean 0 if all is right.
    """
    measurement.rows_in_memory(4)  # two means and a pair
    config, vocabulary = replace(measurement.config, num_splits=1), measurement.vocabulary
    values: list[list[npt.NDArray[np.float64]]] = []
    for index, tokens_T in sequences:
        plain = partial(draws.independent_masks, tokens_T, config, vocabulary, index=index)
        reference = measurement.gradients(tokens_T, plain(num_masks=2 * num_reference))
        halves = range(num_reference), range(num_reference, 2 * num_reference)
        means = [mean_gradient(reference, half) for half in halves]
        epoch = 2 * num_reference + 1  # from here on, no stream twice
        pairs = []
        for distance in distances:
            pairs.append(
                draws.masks_at_distance(
                    tokens_T, config, vocabulary, distance=distance, num_pairs=num_pairs, index=index,
                    first_epoch=epoch,
                )
            )  # fmt: skip
            epoch += num_pairs
        pairs.append(plain(num_masks=2 * num_pairs, first_epoch=epoch))
        gradients = (measurement.gradients(tokens_T, masks) for masks in pairs)
        values.append([pair_covariances(gradient, num_pairs, *means) for gradient in gradients])
    return np.asarray(values).transpose(1, 0, 2)


class SequenceEstimators(NamedTuple):
    """``variances`` of a sequence by law and weight, and ``means_P``, the means of w g over the draws."""

    variances: dict[Key, EstimatorVariance]
    means_P: dict[Key, Tensor]


def measure_laws(
    measurement: Measurement,
    sequences: Iterable[tuple[int, Tokens, Mapping[str, Law]]],
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
    config, vocabulary = measurement.config, measurement.vocabulary
    for index, tokens_T, others in sequences:
        maskable_T = next(iter(others.values())) > -np.inf
        uniform_T = np.where(maskable_T, -np.log(maskable_T.sum()), -np.inf)
        found: dict[str, LawDraws] = {}
        means_P: dict[Key, Tensor] = {}
        rng = np.random.default_rng((config.seed, index))
        for stream, (name, log_p_T) in enumerate({"uniform": uniform_T, **others}.items()):
            drawn = draws.draw_masks(
                tokens_T, log_p_T, num_masked, config, vocabulary, index=index, num_masks=num_draws,
                stream=stream,
            )  # fmt: skip
            rows_DP = stack_gradients(measurement.gradients(tokens_T, drawn.masks), range(num_draws))
            weights_D = laws.mask_weights(log_p_T, drawn.columns_Mk, clip)
            if name == "uniform":
                weights_D = {"none": weights_D["none"]}  # all are 1
                uniform_DP, uniform_columns_Dk = rows_DP, drawn.columns_Mk
            found[name] = LawDraws(
                weights_D,
                inner_products(rows_DP, rows_DP),
                inner_products(rows_DP, uniform_DP),
                _weights_of_uniform(log_p_T, uniform_columns_Dk, rng),
            )
            for weight, values_D in weights_D.items():
                means_P[name, weight] = torch.from_numpy(values_D / num_draws).to(rows_DP) @ rows_DP
        yield SequenceEstimators(estimate_variances(found, num_replicates=num_replicates, rng=rng), means_P)


def measured_laws(
    measurement: Measurement,
    index: int,
    tokens_T: Tokens,
    num_masked: int,
    *,
    oracle_rounds: int,
    gradient_rounds: int,
) -> dict[str, Law]:
    """Return log p of the laws other than the uniform one: proposal, if there is one, and oracles.

    Args:
        oracle_rounds: times that each position's loss is measured.
        gradient_rounds: times that each position's gradient norm is measured; 0: no gradient oracle.
    """
    model: Any = measurement.model
    columns_n = draws.maskable_columns(tokens_T, measurement.vocabulary)
    maskable_T = np.isin(np.arange(len(tokens_T)), columns_n)
    rng = np.random.default_rng((measurement.config.seed, index, num_masked))
    covering = partial(
        draws.covering_masks, columns_n, num_masked, measurement.vocabulary.mask_index, rng=rng
    )
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
