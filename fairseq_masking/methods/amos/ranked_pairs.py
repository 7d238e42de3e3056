"""How often a score puts members of one class above those of another: the area under the ROC curve.

In pairs, so that counts of several batches and ranks add up. Shapes: N values.
"""

import torch
from torch import Tensor

__all__ = ["ranked_pairs"]


@torch.no_grad()
def ranked_pairs(scores_N: Tensor, upper_N: Tensor, lower_N: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pairs of an ``upper`` and a ``lower`` value, and those where the former scores higher.

    Args:
        scores_N: floating point, finite.
        upper_N: bool, who ought to score higher.
        lower_N: bool, who ought to score lower; neither: does not count.

    Returns:
        Scalars fp64: pairs in the right order, equal scores being half in order, and all pairs. The former by
        the latter is the area under the ROC curve.

    Source: Hanley and McNeil 1982: the area is the Mann-Whitney statistic.
    """
    ordered_N, order_N = scores_N.sort()
    lower_below = torch.nn.functional.pad(lower_N[order_N].long().cumsum(0), (1, 0))
    first_N, last_N = (torch.searchsorted(ordered_N, scores_N, right=right) for right in (False, True))
    won_N = (lower_below[first_N] + lower_below[last_N]).double() / 2
    return (won_N * upper_N).sum(), upper_N.sum().double() * lower_N.sum()
