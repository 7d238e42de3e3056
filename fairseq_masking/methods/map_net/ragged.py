"""Rows of different lengths, flat ``[N]`` one after the other, as the batch keeps its masked positions.

Everything is a gather or a scatter by indices whose sizes the host knows: no synchronisation.
Shapes: B rows, N values of all rows, K the most values of a row, some of its places being empty.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_masking.ops.indices import rows_of_positions

__all__ = ["RaggedRows", "rank_correlation"]


class RaggedRows(NamedTuple):
    """Where each of N flat values stands."""

    rows_N: Tensor  # int64, the row of a value
    slots_N: Tensor  # int64, its place within the row, from 0
    starts_B: Tensor  # int64, flat index of a row's first value
    filled_BK: Tensor  # bool, which places of a padded ``[B, K]`` hold a value

    @classmethod
    def of(cls, counts_B: Tensor, *, num_values: int, width: int) -> "RaggedRows":
        """Lay out rows of ``counts_B`` values, int64; N, their sum, and K, their maximum, are known on the host."""
        rows_N, device = rows_of_positions(counts_B, num_values), counts_B.device
        starts_B = counts_B.cumsum(0) - counts_B
        slots_N = torch.arange(num_values, device=device) - starts_B.index_select(0, rows_N)
        filled_BK = torch.arange(width, device=device) < counts_B[:, None]
        return cls(rows_N, slots_N, starts_B, filled_BK)

    def pad(self, values_N: Tensor, fill: float = 0.0) -> Tensor:
        """Return ``[B, K]`` with ``fill`` where a row has no value; gradients flow."""
        padded = values_N.new_full((self.filled_BK.numel(),), fill)
        return padded.index_copy(0, self._places(), values_N).view(self.filled_BK.shape)

    def flatten(self, values_BK: Tensor) -> Tensor:
        """Return ``[N]``: the inverse of ``pad``; gradients flow."""
        return values_BK.flatten().index_select(0, self._places())

    def spread(self, values_B: Tensor) -> Tensor:
        """Return ``[N]``: a row's value for each of its places; gradients flow."""
        return values_B.index_select(0, self.rows_N)

    def _places(self) -> Tensor:
        return self.rows_N * self.filled_BK.shape[1] + self.slots_N


@torch.no_grad()
def rank_correlation(left_BK: Tensor, right_BK: Tensor, filled_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Spearman's rank correlation of two values within each row, at filled places; equal ones share their mean rank.

    It is fp32 ``[B]``, and beside it bool ``[B]`` says whether it is defined: of fewer than two values, or values that
    are all equal, it is 0 and not.
    """
    left, right = _centred_ranks(left_BK, filled_BK), _centred_ranks(right_BK, filled_BK)
    norms = left.square().sum(1) * right.square().sum(1)
    correlation = (left * right).sum(1) / norms.sqrt().clamp(min=torch.finfo(norms.dtype).tiny)
    return correlation, norms > 0


def _centred_ranks(values_BK: Tensor, filled_BK: Tensor) -> Tensor:
    """Ranks minus their mean, which is 0 as half of the pairs are won: (wins - losses) / 2; 0 where empty."""
    difference = values_BK[:, :, None] - values_BK[:, None, :]
    both = filled_BK[:, :, None] & filled_BK[:, None, :]
    return torch.sign(difference).float().masked_fill(~both, 0.0).sum(2) / 2
