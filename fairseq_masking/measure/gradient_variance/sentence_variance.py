"""Eq. 5 at equal rows: what the masks and what the sentences add to the variance of a mini-batch gradient.

Source: 2010.06040, Eq. 5; spec/fully_explored_mlm.md, "Same compute". Of R rows of a batch, K masks of a
sequence leave R / K sequences:

    one mask of R sequences         Var(g(m_1)) / R                        + Var_x(gbar) / R
    K independent masks of R / K    Var(g(m_1)) / R                        + K Var_x(gbar) / R
    K disjoint masks of R / K       K Var(g(m_1, ..., m_K)) / R, Eq. 7     + K Var_x(gbar) / R

The first column falls with disjoint masks; the second rises with K, as there are 1/K as many sequences. A
claim about the total has to hold the one against the other.
Shapes: S sequences, R bootstrap replicates; resampled arrays [1 + R].
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.measure.gradient_variance.resampling import (
    mean_over_pairs,
    resampling_weights,
    weighted_mean,
)

__all__ = ["BatchVariance", "batch_variances", "sentence_variance"]

Resampled = npt.NDArray[np.float64]


class BatchVariance(NamedTuple):
    """The two terms of Eq. 5 times R, the number of rows; resampled over sequences."""

    mask_term: Resampled
    sentence_term: Resampled


def sentence_variance(
    mean_norms_S: npt.NDArray[np.float64], inner_SS: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> Resampled:
    """Estimate Var_x(gbar) without bias.

    Args:
        mean_norms_S: unbiased estimates of ||gbar||**2 of each sequence (``LawVariances.mean_norm``): the
            squared norm of an estimated gbar would add its own mask variance.
        inner_SS: inner products of the sequences' estimated gbar; only those of different ones are read.
        weights: ``[1 + R, S]``.
    """
    return weighted_mean(mean_norms_S, weights) - mean_over_pairs(inner_SS, weights)


def batch_variances(
    mask_variances_S: npt.NDArray[np.float64],
    disjoint_variances_S: npt.NDArray[np.float64],
    mean_norms_S: npt.NDArray[np.float64],
    inner_SS: npt.NDArray[np.float64],
    *,
    num_masks: int,
    num_replicates: int,
    rng: np.random.Generator,
) -> dict[str, BatchVariance]:
    """Estimate both terms for the three ways to fill a batch.

    Args:
        mask_variances_S: Var(g(m_1)) of each sequence.
        disjoint_variances_S: variance of the gradient of K disjoint masks of each sequence.

    Returns:
        By name: ``one_mask``, ``independent``, ``disjoint``.
    """
    weights = resampling_weights(len(mean_norms_S), num_replicates, rng)
    sentences = sentence_variance(mean_norms_S, inner_SS, weights)
    mask_term = weighted_mean(mask_variances_S, weights)
    return {
        "one_mask": BatchVariance(mask_term, sentences),
        "independent": BatchVariance(mask_term, num_masks * sentences),
        "disjoint": BatchVariance(
            num_masks * weighted_mean(disjoint_variances_S, weights), num_masks * sentences
        ),
    }
