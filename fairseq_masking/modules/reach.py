"""Which tokens a layer's attention reaches: all of a row, its own document, a window around each, no padding.

Shapes: B batch (1 where all rows have the same places), T length, H heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Reach", "Reaches", "places_within", "reach_of", "visible_keys", "window_mask"]


class Reach(NamedTuple):
    """What self-attention is given of one kind of layer."""

    attention_bias: Tensor | None  # None where every token reaches every other
    rotation: Tensor | None = None  # of ``rotation_of``; None without rotary positions


class Reaches(NamedTuple):
    """Those of layers that attend globally and of layers that attend locally."""

    everywhere: Reach
    nearby: Reach


def visible_keys(padding_BT: Tensor | None, documents_BT: Tensor | None = None) -> Tensor | None:
    """Return bool ``[B, 1, 1, T]``, False at padding, or ``[B, 1, T, T]``, True within a document; None for all."""
    if documents_BT is not None:
        return (documents_BT[:, :, None] == documents_BT[:, None, :])[:, None]
    return None if padding_BT is None else ~padding_BT[:, None, None, :]


def places_within(documents_BT: Tensor | None) -> Tensor | None:
    """Return int64 ``[B, T]``: how far each token is from the beginning of its document; None for none."""
    if documents_BT is None:
        return None
    columns_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    begins_BT = documents_BT.diff(dim=1, prepend=documents_BT[:, :1] - 1) != 0
    return columns_T - (columns_T * begins_BT).cummax(dim=1).values


def window_mask(places_BT: Tensor, window: int) -> Tensor:
    """Return bool ``[B, 1, T, T]``: keys at most ``window // 2`` places before or behind a query.

    Source: Beltagy et al. 2020 (Longformer), Section 3.1; the window as ModernBERT counts it.
    """
    return (places_BT[:, None, :, None] - places_BT[:, None, None, :]).abs() <= window // 2


def reach_of(visible: Tensor | None, window: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Return one attention bias for all that restricts or shifts attention.

    ``visible`` (False at padding) and ``window`` are bool, broadcastable to ``[B, 1, T, T]``, the relative positions'
    ``bias`` float ``[B, H, T, T]``.
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
