"""K disjoint masks of one sequence (fully-explored MLM, 2010.06040, Section 3.3), one rule for every unit.

Permute the units, concatenate their tokens, rotate by a uniform offset in [0, m), cut the first K * tau into
K runs, shuffle the runs' labels. The rotation puts every token at a uniform place of the circle, so that it
is in each split with probability exactly tau / m, however long its unit; the shuffled labels give all splits
the same joint law. A unit is cut at a run's ends only. For subwords each mask is uniform over all masks of
tau positions (Lemma 2); for words and spans only the marginals are uniform.

Shapes: m maskable tokens, U units, K splits, k = tau positions of a split.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["cut_splits"]


def cut_splits(
    starts_U: npt.NDArray[np.int64],
    num_maskable: int,
    num_splits: int,
    num_masked: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Draws K disjoint sets of tau maskable tokens.

    Args:
        starts_U: int64 [U], first token of each unit, ascending from 0.
        num_maskable: m.
        num_splits: K.
        num_masked: tau, with K * tau <= m.
        rng: the item's stream for positions.

    Returns:
        int64 [K, k], indices into the maskable tokens, ascending in no split.

    Deviation: the paper cuts the permuted sequence from its beginning; the rotation makes the probabilities
    exact also for units of several tokens and changes nothing for subwords.
    """
    assert 0 < num_splits * num_masked <= num_maskable
    order_U = rng.permutation(len(starts_U))
    offset = rng.integers(num_maskable)
    labels_K = rng.permutation(num_splits)

    tokens_m = order_U if len(starts_U) == num_maskable else _concatenate(starts_U, order_U, num_maskable)
    rotated_m = np.concatenate((tokens_m[offset:], tokens_m[:offset]))
    return rotated_m[: num_splits * num_masked].reshape(num_splits, num_masked)[labels_K]


def _concatenate(
    starts_U: npt.NDArray[np.int64], order_U: npt.NDArray[np.int64], num_maskable: int
) -> npt.NDArray[np.int64]:
    """The tokens of the units, unit after unit in the given order."""
    lengths_U = np.diff(starts_U, append=num_maskable)[order_U]
    ends_U = np.cumsum(lengths_U)
    # Within a unit the source index runs along with the target index, so one shift serves all its tokens.
    shifts_U = starts_U[order_U] - (ends_U - lengths_U)
    return np.arange(num_maskable) + np.repeat(shifts_U, lengths_U)
