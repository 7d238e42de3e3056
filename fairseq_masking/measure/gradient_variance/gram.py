"""Inner products of many gradients, of which only a few are held at a time.

Every variance and covariance of Theorem 1 is a sum of inner products, so an [M, M] matrix replaces [M, P].
Shapes: M gradients, P parameters.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["GramMatrix", "gram_matrix", "inner_products"]

# Longest sum that is left to the gradients' own precision; the sums of such chunks are added in fp64.
_CHUNK = 1 << 16


class GramMatrix(NamedTuple):
    """float64 ``inner_MM``, all inner products, and ``mean_P``, the mean of the gradients."""

    inner_MM: npt.NDArray[np.float64]
    mean_P: Tensor


def gram_matrix(gradient_of: Callable[[int], Tensor], num_gradients: int, rows_in_memory: int) -> GramMatrix:
    """Compute all inner products of gradients that are too large to hold together.

    Blocks of ``rows_in_memory`` gradients are held in turn, and for each block the later gradients are
    computed once more: with B blocks, (B + 1) / 2 times as many gradients as there are. One block is best.

    Args:
        gradient_of: gives gradient number i, ``[P]``, the same each time.
        num_gradients: M.
        rows_in_memory: gradients to hold at once, at least 1.
    """
    inner = np.zeros((num_gradients, num_gradients))
    total: Tensor | None = None
    for start in range(0, num_gradients, rows_in_memory):
        stop = min(start + rows_in_memory, num_gradients)
        block = _stack(gradient_of, start, stop)
        inner[start:stop, start:stop] = inner_products(block, block)
        total = block.sum(0) if total is None else total + block.sum(0)
        for later in range(stop, num_gradients):
            inner[start:stop, later] = inner[later, start:stop] = inner_products(
                block, gradient_of(later)[None]
            )[:, 0]
    assert total is not None, "no gradients"
    return GramMatrix(inner, total / num_gradients)


def _stack(gradient_of: Callable[[int], Tensor], start: int, stop: int) -> Tensor:
    first = gradient_of(start)
    block = torch.empty(stop - start, first.numel(), dtype=first.dtype, device=first.device)
    block[0] = first
    for row in range(1, stop - start):
        block[row] = gradient_of(start + row)
    return block


def inner_products(left: Tensor, right: Tensor) -> npt.NDArray[np.float64]:
    """Return float64 ``[L, R]``, the inner products of the rows of two matrices ``[L, P]`` and ``[R, P]``."""
    chunks = zip(left.split(_CHUNK, 1), right.split(_CHUNK, 1), strict=True)
    return sum((a @ b.t()).double() for a, b in chunks).cpu().numpy()
