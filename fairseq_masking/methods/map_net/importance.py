"""How much a drawn mask counts: the uniform law's probability over the proposal's (MAP-Net, Eq. 5).

All in logarithms and fp32; nothing here carries a gradient.
Shapes: B rows, T length, K the most positions of a row; n maskable positions of a row.
"""

import math

import torch
from torch import Tensor

from fairseq_masking.ops.ragged import RaggedRows

__all__ = ["clip_log_weight", "log_weight_exact", "log_weight_paper"]


@torch.no_grad()
def log_weight_paper(log_proposal_BT: Tensor, drawn_N: Tensor, layout: RaggedRows) -> Tensor:
    """Return log of r = (1/n)^K / prod_k p(pos_k) of each row.

    The ratio of K draws *with* replacement, so biased for the K draws without replacement that are made.

    Args:
        log_proposal_BT: log p, -inf at positions that are never masked.
        drawn_N: flat positions, row after row.
        layout: of ``drawn_N``.

    Returns:
        float ``[B]``; 0 for a row without positions.

    Source: 2008.05333, Section 3.3.
    """
    log_drawn_BK = layout.pad(log_proposal_BT.flatten().index_select(0, drawn_N))
    return -layout.filled_BK.sum(1) * _num_maskable(log_proposal_BT).log() - log_drawn_BK.sum(1)


@torch.no_grad()
def log_weight_exact(log_proposal_BT: Tensor, drawn_N: Tensor, layout: RaggedRows) -> Tensor:
    """Return log of the ratio of K ordered draws without replacement of each row.

    log r = sum_k [log(1 - sum_{j<k} p_j) - log(n - k + 1) - log p_k]: at each draw, the uniform law over what
    is left against the proposal over what is left. E[r f] over the proposal's draws is the uniform mean of f.

    Args:
        log_proposal_BT: log p, -inf at positions that are never masked.
        drawn_N: flat positions, row after row, in the order of the draws.
        layout: of ``drawn_N``.

    Returns:
        float ``[B]``; 0 for a row without positions.

    Source: spec/map_net.md; Deviation: the paper has ``log_weight_paper`` only.
    """
    flat = log_proposal_BT.flatten()
    log_drawn_BK = layout.pad(flat.index_select(0, drawn_N), fill=-torch.inf)
    log_never_drawn_B = flat.index_fill(0, drawn_N, -torch.inf).view_as(log_proposal_BT).logsumexp(1)
    # What is left before draw k, summed from the end: 1 - (what is gone) would cancel to nothing.
    log_later_BK = log_drawn_BK.flip(1).logcumsumexp(1).flip(1)
    log_left_BK = torch.logaddexp(log_later_BK, log_never_drawn_B[:, None])
    draws_before_K = torch.arange(layout.filled_BK.shape[1], device=flat.device)
    num_left_BK = _num_maskable(log_proposal_BT)[:, None] - draws_before_K
    log_ratio_BK = log_left_BK - num_left_BK.log() - log_drawn_BK
    return log_ratio_BK.masked_fill(~layout.filled_BK, 0.0).sum(1)


def clip_log_weight(log_weight_B: Tensor, clip: float) -> Tensor:
    """Return CLIP(r, 1 - clip, 1 + clip); a ``clip`` of 1 or more has no lower bound, 0 gives 1."""
    lowest = math.log1p(-clip) if clip < 1.0 else -math.inf
    return log_weight_B.clamp(lowest, math.log1p(clip)).exp()


def _num_maskable(log_proposal_BT: Tensor) -> Tensor:
    count = (log_proposal_BT > -torch.inf).sum(1)
    return count.clamp(min=1).to(log_proposal_BT.dtype)  # a row without any draws nothing
