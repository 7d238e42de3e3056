"""Write a batch's corruption into clean text, and read its targets: one scatter, one gather, no sync.

Shapes: B batch, T length, N masked tokens. ``positions_N`` are flat: row * T + column.
"""

import torch
from torch import Tensor

__all__ = ["corrupt_tokens", "gather_positions", "rows_of_positions"]


def corrupt_tokens(tokens_BT: Tensor, positions_N: Tensor, replacements_N: Tensor) -> Tensor:
    """Return a copy of ``tokens_BT`` with ``replacements_N`` written at ``positions_N``."""
    return tokens_BT.flatten().index_copy(0, positions_N, replacements_N).view_as(tokens_BT)


def gather_positions(values_BT: Tensor, positions_N: Tensor) -> Tensor:
    """Return ``values[row, column]`` for each flat position: ``[N]`` or ``[N, D]``."""
    return values_BT.flatten(0, 1).index_select(0, positions_N)


def rows_of_positions(num_masked_B: Tensor, num_positions: int) -> Tensor:
    """Return the int64 row of each masked position ``[N]``, without a sync: N is known on the host."""
    rows = torch.arange(num_masked_B.shape[0], device=num_masked_B.device)
    return rows.repeat_interleave(num_masked_B, output_size=num_positions)
