"""Which tokens a layer's attention reaches: all of a row, a window around each, what is no padding.

Shapes: B batch (1 where all rows have the same places), T length, H heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Reach", "Reaches", "reach_of", "window_mask"]


class Reach(NamedTuple):
    """What self-attention is given of one kind of layer.

    Attributes:
        attention_bias: as in ``SelfAttention``; None where every token reaches every other.
        rotation: of ``rotation_of``; None without rotary positions.
    """

    attention_bias: Tensor | None
    rotation: Tensor | None = None


class Reaches(NamedTuple):
    """Those of layers that attend globally and of layers that attend locally."""

    everywhere: Reach
    nearby: Reach


def window_mask(places_BT: Tensor, window: int) -> Tensor:
    """Return bool ``[B, 1, T, T]``: keys at most ``window // 2`` places before or behind a query.

    Source: Beltagy et al. 2020 (Longformer), Section 3.1; the window as ModernBERT counts it.
    """
    return (places_BT[:, None, :, None] - places_BT[:, None, None, :]).abs() <= window // 2


def reach_of(visible: Tensor | None, window: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Return one attention bias for all that restricts or shifts attention.

    Args:
        visible: bool, broadcastable to ``[B, 1, T, T]``, False at padding.
        window: bool ``[B, 1, T, T]``.
        bias: float ``[B, H, T, T]``, of relative positions.
    """
    if window is not None and visible is not None:
        # Padding at which no window reaches text must still have something to attend to: itself.
        itself_TT = torch.eye(window.shape[-1], dtype=torch.bool, device=window.device)
        visible = window & visible | itself_TT
    elif window is not None:
        visible = window
    if bias is None or visible is None:
        return visible if bias is None else bias
    return bias.masked_fill(~visible, float("-inf"))
