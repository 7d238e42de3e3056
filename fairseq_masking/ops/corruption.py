"""Write a batch's corruption into clean text, and read its targets: one scatter, one gather, no sync.

Shapes: B batch, T length, N masked tokens. ``positions_N`` are flat: row * T + column.
"""

from torch import Tensor

__all__ = ["corrupt_tokens", "gather_positions"]


def corrupt_tokens(tokens_BT: Tensor, positions_N: Tensor, replacements_N: Tensor) -> Tensor:
    """Return a copy of ``tokens_BT`` with ``replacements_N`` written at ``positions_N``."""
    return tokens_BT.flatten().index_copy(0, positions_N, replacements_N).view_as(tokens_BT)


def gather_positions(values_BT: Tensor, positions_N: Tensor) -> Tensor:
    """Return ``values[row, column]`` for each flat position: ``[N]`` or ``[N, D]``."""
    return values_BT.flatten(0, 1).index_select(0, positions_N)
