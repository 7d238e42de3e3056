"""Spearman's rank correlation of many short rows at once, on the device.

Shapes: B rows, K places of a row, some of them empty.
"""

import torch
from torch import Tensor

__all__ = ["rank_correlation"]


@torch.no_grad()
def rank_correlation(left_BK: Tensor, right_BK: Tensor, filled_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Correlate the ranks of two values within each row; equal values share their mean rank.

    Args:
        left_BK: floating point; what stands at empty places does not matter.
        right_BK: the same shape.
        filled_BK: bool, True at places that count.

    Returns:
        ``correlation_B`` fp32 and ``defined_B`` bool: where a row has fewer than two values, or values that
        are all equal, the correlation is 0 and not defined.
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
