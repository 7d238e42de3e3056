"""3ML's division of a batch: what the encoder reads, which [MASK]s the decoder is given, who predicts what.

All of it is indices of sizes that the host knows, so the arithmetic after it never asks the device.
Source: 2211.04898, Section 2.2; spec/three_ml.md, "Encoder input".
Shapes: B rows, T length, N masked tokens of the batch, of which M are [MASK]s.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq_masking.masking import Kind
from fairseq_masking.methods.three_ml.selection import Selection

__all__ = ["Arrangement", "arrange_batch", "arrange_text"]


class Arrangement(NamedTuple):
    """Which tokens go where.

    Attributes:
        visible: what the encoder reads: no [MASK], no padding.
        masked: the [MASK]s; None, as all that follows, where the decoder reads the whole sequence.
        mask_first_N: int64, the order of the masked tokens in which the [MASK]s come first.
        mask_positions_M: int64, flat positions of the [MASK]s.
        other_positions: int64 ``[N - M]``, flat positions of the masked tokens that are no [MASK].
    """

    visible: Selection
    masked: Selection | None = None
    mask_first_N: Tensor | None = None
    mask_positions_M: Tensor | None = None
    other_positions: Tensor | None = None


def arrange_batch(
    positions_N: Tensor,
    kinds_N: Tensor,
    padding_BT: Tensor | None,
    size: torch.Size,
    shape: dict[str, Any],
    *,
    crossing: bool,
) -> Arrangement:
    """Divide a training batch of design.md.

    Args:
        size: B and T.
        shape: the batch's Python values.
        crossing: the decoder reads the [MASK]s alone.
    """
    is_mask_N = kinds_N == Kind.MASK
    nothing = torch.zeros(size.numel(), dtype=torch.bool, device=positions_N.device)
    exact = shape["rectangular"]
    return _arrange(
        nothing.index_copy(0, positions_N, is_mask_N).view(size),
        padding_BT,
        positions_N,
        is_mask_N,
        num_mask=shape["num_mask"],
        max_visible=shape["max_visible"],
        max_mask=shape["num_mask"] // size[0] if exact else shape["max_masked"],
        exact=exact,
        crossing=crossing,
    )


def arrange_text(
    hidden_BT: Tensor, padding_BT: Tensor, positions_N: Tensor, *, crossing: bool
) -> Arrangement:
    """Divide text in which [MASK]s stand already, for predictions anywhere; asks the device for counts.

    Args:
        hidden_BT: bool, True at [MASK]s.
    """
    is_mask_N = hidden_BT.flatten().index_select(0, positions_N)
    return _arrange(
        hidden_BT,
        padding_BT,
        positions_N,
        is_mask_N,
        num_mask=int(is_mask_N.sum()),
        max_visible=int((~(hidden_BT | padding_BT)).sum(1).max()),
        max_mask=int(hidden_BT.sum(1).max()),
        exact=False,
        crossing=crossing,
    )


def _arrange(
    hidden_BT: Tensor,
    padding_BT: Tensor | None,
    positions_N: Tensor,
    is_mask_N: Tensor,
    *,
    num_mask: int,
    max_visible: int,
    max_mask: int,
    exact: bool,
    crossing: bool,
) -> Arrangement:
    """``max_mask``: at least the most [MASK]s of a row; ``exact``: all rows have as many, and no padding."""
    visible_BT = ~hidden_BT if padding_BT is None else ~(hidden_BT | padding_BT)
    visible = Selection.of(visible_BT, max_visible, exact=exact)
    if not crossing:
        return Arrangement(visible)
    # Without any [MASK] the decoder runs on an empty place: DDP wants a gradient for each parameter.
    masked = Selection.of(hidden_BT, max(1, max_mask), exact=exact and max_mask > 0)
    mask_first_N = (~is_mask_N).to(torch.int8).argsort(stable=True)
    ordered_N = positions_N.index_select(0, mask_first_N)
    return Arrangement(visible, masked, mask_first_N, ordered_N[:num_mask], ordered_N[num_mask:])
