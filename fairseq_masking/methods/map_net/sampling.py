"""Draw positions without replacement from a proposal, on the device: Gumbel-top-K.

The K largest of log p + Gumbel noise, largest first, are K successive draws from p, each renormalised over
what is left (Kool et al. 2019, "Stochastic Beams and Where to Find Them", 1903.06059, Section 2).
Shapes: B rows, T length, N positions of the batch, K the most positions of a row, R replacement ids.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_masking.masking import Kind
from fairseq_masking.ops.ragged import RaggedRows

__all__ = ["ProposedMasks", "gumbel_top_k", "permutation_within_rows", "propose_masks", "draw_replacements"]


class ProposedMasks(NamedTuple):
    """Masks drawn for every row, flat and in the batch's layout.

    Attributes:
        positions_N: int64, in each row in an order independent of the draw, so that ``kinds`` fit.
        drawn_N: int64, the same positions in the order in which they were drawn.
    """

    positions_N: Tensor
    drawn_N: Tensor


def gumbel_top_k(log_probs_BT: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw ``k`` columns of each row without replacement.

    Args:
        log_probs_BT: logarithms of probabilities (a constant per row does not matter); -inf is drawn only
            after everything else.
        k: at most T.
        generator: on the device of ``log_probs_BT``.

    Returns:
        int64 ``[B, k]`` in the order of the draws.
    """
    # -log of an exponential variate is a Gumbel variate
    waiting = torch.empty_like(log_probs_BT).exponential_(generator=generator)
    waiting.clamp_(min=torch.finfo(waiting.dtype).tiny)  # its logarithm must be finite
    return torch.topk(log_probs_BT - waiting.log(), k, dim=1, sorted=True).indices


def permutation_within_rows(layout: RaggedRows, generator: torch.Generator) -> Tensor:
    """Return int64 ``[N]`` flat indices that shuffle each row's values among themselves, uniformly."""
    filled_BK = layout.filled_BK
    keys = torch.rand(filled_BK.shape, generator=generator, device=filled_BK.device, dtype=torch.float64)
    order_BK = keys.masked_fill(~filled_BK, torch.inf).argsort(dim=1)
    return layout.spread(layout.starts_B) + layout.flatten(order_BK)


def propose_masks(log_proposal_BT: Tensor, layout: RaggedRows, generator: torch.Generator) -> ProposedMasks:
    """Draw as many positions in each row as ``layout`` has, and shuffle them for the corruption.

    The shuffle is what keeps the likeliest positions, which tend to be drawn first, from always becoming
    [MASK], the first of the kinds.
    """
    width = log_proposal_BT.shape[1]
    columns_BK = gumbel_top_k(log_proposal_BT.detach(), layout.filled_BK.shape[1], generator)
    drawn_N = layout.rows_N * width + layout.flatten(columns_BK)
    return ProposedMasks(drawn_N.index_select(0, permutation_within_rows(layout, generator)), drawn_N)


def draw_replacements(
    targets_N: Tensor, kinds_N: Tensor, *, mask_index: int, allowed_R: Tensor, generator: torch.Generator
) -> Tensor:
    """Return what to write: [MASK], a token drawn uniformly from ``allowed_R``, or the token itself."""
    choice = torch.randint(allowed_R.shape[0], targets_N.shape, generator=generator, device=targets_N.device)
    replacements = torch.where(kinds_N == Kind.RANDOM, allowed_R.index_select(0, choice), targets_N)
    return replacements.masked_fill(kinds_N == Kind.MASK, mask_index)
