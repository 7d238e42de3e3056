"""The two measurements on a real model: sequence by sequence, the gradients of many masks.

Shapes: S sequences, D draws, K masks of a draw, H distances, Q pairs, P parameters.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskingConfig, MaskingVocabulary
from fairseq_masking.measure.gradient_variance.gradients import LossScale, MaskGradient, Masks, mean_gradient
from fairseq_masking.measure.gradient_variance.gram import gram_matrix
from fairseq_masking.measure.gradient_variance.mask_covariance import pair_covariances
from fairseq_masking.measure.gradient_variance.mask_draws import (
    disjoint_masks,
    independent_masks,
    masks_at_distance,
)
from fairseq_masking.measure.gradient_variance.mask_variance import LawMoments, MaskVariances, compare_laws

__all__ = ["Measurement", "SequenceVariances", "measure_covariance", "measure_variance"]


@dataclass(frozen=True)
class Measurement:
    """What both measurements are made on.

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

    def gradients(self, tokens_T: npt.NDArray[np.int64], masks: Masks) -> MaskGradient:
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


def measure_variance(
    measurement: Measurement,
    sequences: Iterable[tuple[int, npt.NDArray[np.int64]]],
    *,
    num_draws: int,
    num_replicates: int,
    num_kept: int = 0,
) -> Iterator[SequenceVariances]:
    """Compare both laws on each sequence: D draws of K masks for each, 2 D K gradients.

    Args:
        sequences: pairs of index and tokens.
        num_draws: D, at least 3 (two give no spread to resample).
        num_kept: mean gradients that the caller keeps, counted against the memory.
    """
    config = measurement.config
    rows = measurement.rows_in_memory(num_kept)
    for index, tokens_T in sequences:
        disjoint = disjoint_masks(tokens_T, config, measurement.vocabulary, index=index, num_draws=num_draws)
        independent = independent_masks(
            tokens_T,
            config,
            measurement.vocabulary,
            index=index,
            num_masks=num_draws * config.num_splits,
            first_epoch=num_draws + 1,  # streams that the disjoint masks have not used
        )
        grams = [
            gram_matrix(measurement.gradients(tokens_T, masks), len(masks), rows)
            for masks in (independent, disjoint)
        ]
        moments = [LawMoments.from_gram(gram.inner_MM, config.num_splits) for gram in grams]
        rng = np.random.default_rng((config.seed, index))
        variances = compare_laws(*moments, num_replicates=num_replicates, rng=rng)
        yield SequenceVariances(variances, (grams[0].mean_P + grams[1].mean_P) / 2)


def measure_covariance(
    measurement: Measurement,
    sequences: Iterable[tuple[int, npt.NDArray[np.int64]]],
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
        plain = partial(independent_masks, tokens_T, config, vocabulary, index=index)
        reference = measurement.gradients(tokens_T, plain(num_masks=2 * num_reference))
        means = [
            mean_gradient(reference, range(num_reference)),
            mean_gradient(reference, range(num_reference, 2 * num_reference)),
        ]
        epoch = 2 * num_reference + 1  # from here on, no stream twice
        rows = []
        for distance in distances:
            pairs = masks_at_distance(
                tokens_T,
                config,
                vocabulary,
                distance=distance,
                num_pairs=num_pairs,
                index=index,
                first_epoch=epoch,
            )
            epoch += num_pairs
            rows.append(pair_covariances(measurement.gradients(tokens_T, pairs), num_pairs, *means))
        control = measurement.gradients(tokens_T, plain(num_masks=2 * num_pairs, first_epoch=epoch))
        rows.append(pair_covariances(control, num_pairs, *means))
        values.append(rows)
    return np.asarray(values).transpose(1, 0, 2)
