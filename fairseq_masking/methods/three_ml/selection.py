"""Some tokens of each row as a sequence of their own, and back to their places.

Gathers and scatters by indices. The width of the result is known on the host, so nothing synchronises.
Shapes: B rows, T length, S selected (padded to the longest row), D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Selection"]


class Selection(NamedTuple):
    """Where the selected tokens of each row stand.

    Attributes:
        columns_BS: int64, the columns of a row's selected tokens, ascending; no column stands there twice.
        empty_BS: bool, True at the end of rows with fewer than S; what ``columns_BS`` says there means
            nothing. None where all rows have S.
        flat_BT: int64, for a selected token its flat index in ``[B * S]``; for others it means nothing.
    """

    columns_BS: Tensor
    empty_BS: Tensor | None
    flat_BT: Tensor

    @classmethod
    def of(cls, selected_BT: Tensor, width: int, *, exact: bool) -> "Selection":
        """Select where ``selected_BT`` is True.

        Args:
            width: S, at least the most that a row selects, at most T.
            exact: every row selects exactly S.
        """
        order_BT = (~selected_BT).to(torch.int8).argsort(dim=1, stable=True)
        columns_BS = order_BT[:, :width].contiguous()
        empty_BS = None if exact else ~selected_BT.gather(1, columns_BS)
        slots = torch.arange(columns_BS.numel(), device=columns_BS.device).view_as(columns_BS)
        flat_BT = torch.zeros_like(order_BT).scatter_(1, columns_BS, slots)
        return cls(columns_BS, empty_BS, flat_BT)

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
