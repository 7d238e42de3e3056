"""3ML's division of a batch: what the encoder reads, which [MASK]s the decoder is given, who predicts what.

All of it is gathers and scatters by indices, of sizes that the host knows: training never asks the device.
Source: 2211.04898, Section 2.2; spec/three_ml.md, "Encoder input".
Shapes: B rows, T length, S selected tokens (padded to the longest row), N masked tokens of the batch, of
which M are [MASK]s, D width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq_masking.modules.reach import places_within
from fairseq_masking.ops import gather_positions

__all__ = ["Arrangement", "Selection", "arrange"]


class Selection(NamedTuple):
    """Some tokens of each row as a sequence of their own, and back to their places."""

    columns_BS: Tensor  # int64, the columns of a row's selected tokens, ascending; no column stands there twice
    # bool, True at the end of rows with fewer than S; what ``columns_BS`` says there means nothing. None where all
    # rows have S.
    empty_BS: Tensor | None
    flat_BT: Tensor  # int64, for a selected token its flat index in ``[B * S]``; for others it means nothing
    places_BS: Tensor  # int64, the columns, or with documents the places within them
    # int64, the numbers of the tokens' documents, -1 at empty places; None without documents
    documents_BS: Tensor | None = None

    @classmethod
    def of(cls, selected_BT: Tensor, width: int, *, exact: bool, documents_BT: Tensor | None = None) -> "Selection":
        """Select where ``selected_BT`` is True; no row selects more than S <= T, or under ``exact`` fewer."""
        order_BT = (~selected_BT).to(torch.int8).argsort(dim=1, stable=True)
        columns_BS = order_BT[:, :width].contiguous()
        empty_BS = None if exact else ~selected_BT.gather(1, columns_BS)
        slots = torch.arange(columns_BS.numel(), device=columns_BS.device).view_as(columns_BS)
        flat_BT = torch.zeros_like(order_BT).scatter_(1, columns_BS, slots)
        if documents_BT is None:
            return cls(columns_BS, empty_BS, flat_BT, columns_BS)
        places_BS, documents_BS = (
            values_BT.gather(1, columns_BS) for values_BT in (places_within(documents_BT), documents_BT)
        )
        documents_BS = documents_BS if empty_BS is None else documents_BS.masked_fill(empty_BS, -1)
        return cls(columns_BS, empty_BS, flat_BT, places_BS, documents_BS)

    def take(self, tokens_BT: Tensor, fill: int) -> Tensor:
        """Return the selected tokens ``[B, S]``, ``fill`` at empty places."""
        taken_BS = tokens_BT.gather(1, self.columns_BS)
        return taken_BS if self.empty_BS is None else taken_BS.masked_fill(self.empty_BS, fill)

    def put_back(self, states_BSD: Tensor, others_D: Tensor) -> Tensor:
        """Return ``[B, T, D]``: the states at their columns, the vector ``others_D`` at all other ones."""
        rows, length = self.flat_BT.shape
        others_D = others_D.to(states_BSD.dtype)  # under autocast they differ
        if self.empty_BS is not None:
            states_BSD = torch.where(self.empty_BS[..., None], others_D, states_BSD)
        starts_B1 = torch.arange(0, rows * length, length, device=self.flat_BT.device)[:, None]
        places_N = (starts_B1 + self.columns_BS).flatten()
        filled = others_D.expand(rows * length, -1).index_copy(0, places_N, states_BSD.flatten(0, 1))
        return filled.view(rows, length, -1)

    def at(self, states_BSD: Tensor, positions_N: Tensor) -> Tensor:
        """Return the states ``[N, D]`` of selected tokens at flat positions (row * T + column)."""
        return states_BSD.flatten(0, 1).index_select(0, self.flat_BT.flatten().index_select(0, positions_N))


class Arrangement(NamedTuple):
    """Which tokens go where."""

    visible: Selection  # what the encoder reads: no [MASK], no padding
    padding_BT: Tensor | None  # of the whole sequence, as ``documents_BT``
    documents_BT: Tensor | None
    # the [MASK]s; None, as all that follows, where the decoder reads the whole sequence
    masked: Selection | None = None
    mask_first_N: Tensor | None = None  # int64, the order of the masked tokens in which the [MASK]s come first
    mask_positions_M: Tensor | None = None  # int64, flat positions of the [MASK]s
    other_positions: Tensor | None = None  # int64 ``[N - M]``, flat positions of the masked tokens that are no [MASK]


def arrange(
    hidden_BT: Tensor,
    padding_BT: Tensor | None,
    positions_N: Tensor,
    *,
    crossing: bool,
    shape: dict[str, Any] | None = None,
    documents_BT: Tensor | None = None,
) -> Arrangement:
    """Divide a batch, or text in which [MASK]s stand already, for predictions anywhere.

    Args:
        hidden_BT: bool, True at [MASK]s.
        positions_N: of what is predicted.
        crossing: the decoder reads the [MASK]s alone.
        shape: Python values of a training batch of design.md; without them the device is asked for counts.
    """
    is_mask_N = gather_positions(hidden_BT, positions_N)
    visible_BT = ~hidden_BT if padding_BT is None else ~(hidden_BT | padding_BT)
    if shape is None:
        exact, num_mask = False, int(is_mask_N.sum())
        max_visible, max_mask = (int(some_BT.sum(1).max()) for some_BT in (visible_BT, hidden_BT))
    else:
        exact, num_mask, max_visible = shape["rectangular"], shape["num_mask"], shape["max_visible"]
        max_mask = num_mask // len(hidden_BT) if exact else shape["max_masked"]
    visible = Selection.of(visible_BT, max_visible, exact=exact, documents_BT=documents_BT)
    if not crossing:
        return Arrangement(visible, padding_BT, documents_BT)
    # Without any [MASK] the decoder runs on an empty place: DDP wants a gradient for each parameter.
    masked = Selection.of(hidden_BT, max(1, max_mask), exact=exact and max_mask > 0, documents_BT=documents_BT)
    mask_first_N = (~is_mask_N).to(torch.int8).argsort(stable=True)
    ordered_N = positions_N.index_select(0, mask_first_N)
    order = mask_first_N, ordered_N[:num_mask], ordered_N[num_mask:]
    return Arrangement(visible, padding_BT, documents_BT, masked, *order)
