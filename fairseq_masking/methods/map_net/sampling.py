"""When a mask is proposed, how it is drawn, and how much it counts.

Masks are uniform with probability q(t) (they explore), and the proposal network's otherwise; q falls "from 100% at
the beginning of training to 33% at 1000k steps" (2008.05333, Section 4.1.1).

Drawn on the device, without replacement, by Gumbel-top-K: the K largest of log p + Gumbel noise, largest
first, are K successive draws from p, each renormalised over what is left (Kool et al. 2019, "Stochastic Beams
and Where to Find Them", 1903.06059, Section 2). A mask counts by the uniform law's probability over the
proposal's (MAP-Net, Eq. 5): in logarithms and fp32, and nothing there carries a gradient.
Shapes: B rows, T length, N positions of the batch, K the most positions of a row, R replacement ids; n
maskable positions of a row.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairseq_masking.errors import UserError
from fairseq_masking.masking import Kind
from fairseq_masking.methods.map_net.ragged import RaggedRows

__all__ = [
    "EXPLORE_UNITS", "Exploration", "ProposedMasks", "clip_log_weight", "draw_replacements", "gumbel_top_k",
    "log_bounds", "log_weight_exact", "log_weight_paper", "permutation_within_rows", "propose_masks",
]  # fmt: skip

EXPLORE_UNITS = ("sentence", "batch")
_COIN = 0x636F696E  # sets this stream apart from any other SeedSequence((seed, update))


@dataclass(frozen=True)
class Exploration:
    """The schedule q(t): linear from ``start`` at update 0 to ``end`` at update ``updates``, then constant."""

    start: float = 1.0  # q at update 0
    end: float = 0.33  # q from update ``updates`` on
    updates: int = 1_000_000  # length of the descent
    # what a coin decides for: each sentence (the coins are then drawn on the device), or the batch
    unit: str = "sentence"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UserError(f"--explore-{name} {value}: a probability, from 0 to 1")
        if self.end > self.start:
            raise UserError(
                f"--explore-end {self.end} is above --explore-start {self.start}: exploration falls during"
                " training; for a constant share give both the same value"
            )
        if self.updates < 1:
            raise UserError(
                f"--explore-updates {self.updates}: at least 1, the number of updates over which exploration falls"
            )
        if self.unit not in EXPLORE_UNITS:
            raise UserError(f"--explore-unit {self.unit}: choose one of {', '.join(EXPLORE_UNITS)}")

    def probability(self, update: int) -> float:
        """Return q at an update, counted from 0."""
        return self.start + (self.end - self.start) * min(update / self.updates, 1.0)

    def probability_for_batch(self, seed: int, update: int) -> float:
        """Return q for the sentences of a batch: q(t) itself, or 0 or 1 where one coin decides for all.

        That coin depends on (seed, update) alone, so that all ranks and micro-batches agree.
        """
        probability = self.probability(update)
        if self.unit == "sentence":
            return probability
        words = np.random.SeedSequence((_COIN, seed, update)).generate_state(1, np.uint64)
        return 1.0 if math.ldexp(int(words[0]), -64) < probability else 0.0


class ProposedMasks(NamedTuple):
    """Masks drawn for every row, flat and in the batch's layout."""

    positions_N: Tensor  # int64, in each row in an order independent of the draw, so that ``kinds`` fit
    drawn_N: Tensor  # int64, the same positions in the order in which they were drawn


def gumbel_top_k(log_probs_BT: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw ``k <= T`` columns of each row without replacement: int64 ``[B, k]`` in the order of the draws.

    A constant added to a row's logarithms does not matter; -inf is drawn only after everything else.
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
    targets_N: Tensor, kinds_N: Tensor, mask_index: int, allowed_R: Tensor, generator: torch.Generator
) -> Tensor:
    """Return what to write: [MASK], a token drawn uniformly from ``allowed_R``, or the token itself."""
    choice = torch.randint(allowed_R.shape[0], targets_N.shape, generator=generator, device=targets_N.device)
    replacements = torch.where(kinds_N == Kind.RANDOM, allowed_R.index_select(0, choice), targets_N)
    return replacements.masked_fill(kinds_N == Kind.MASK, mask_index)


@torch.no_grad()
def log_weight_paper(log_proposal_BT: Tensor, drawn_N: Tensor, layout: RaggedRows) -> Tensor:
    """Return log of r = (1/n)^K / prod_k p(pos_k) of each row, float ``[B]``; 0 for a row without positions.

    The ratio of K draws *with* replacement, so biased for the K draws without replacement that are made. log p is
    -inf at positions that are never masked; ``drawn_N`` are flat positions, row after row in ``layout``.

    Source: 2008.05333, Eq. 5 and Section 3.3.
    """
    log_drawn_BK = layout.pad(log_proposal_BT.flatten().index_select(0, drawn_N))
    return -layout.filled_BK.sum(1) * _num_maskable(log_proposal_BT).log() - log_drawn_BK.sum(1)


@torch.no_grad()
def log_weight_exact(log_proposal_BT: Tensor, drawn_N: Tensor, layout: RaggedRows) -> Tensor:
    """The same for K ordered draws without replacement; ``drawn_N`` is in the order of the draws.

    log r = sum_k [log(1 - sum_{j<k} p_j) - log(n - k + 1) - log p_k]: at each draw, the uniform law over what
    is left against the proposal over what is left. E[r f] over the proposal's draws is the uniform mean of f.

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


def log_bounds(clip: float) -> tuple[float, float]:
    """Return the logarithms of 1 - clip and 1 + clip; a ``clip`` of 1 or more has no lower bound."""
    return math.log1p(-clip) if clip < 1.0 else -math.inf, math.log1p(clip)


def clip_log_weight(log_weight_B: Tensor, clip: float) -> Tensor:
    """Return CLIP(r, 1 - clip, 1 + clip); 0 gives 1."""
    return log_weight_B.clamp(*log_bounds(clip)).exp()


def _num_maskable(log_proposal_BT: Tensor) -> Tensor:
    count = (log_proposal_BT > -torch.inf).sum(1)
    return count.clamp(min=1).to(log_proposal_BT.dtype)  # a row without any draws nothing
