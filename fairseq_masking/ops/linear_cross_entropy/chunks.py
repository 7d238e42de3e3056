"""Linear cross-entropy chunk by chunk: matrix products here, the row-wise part from PyTorch or Triton.

Forward computes a chunk's logits, reduces them to four numbers a row, and goes on to the next chunk in the
same memory. Where one chunk holds all rows it is kept for backward. Otherwise backward computes the logits
again: four products of 2NVD FLOPs in place of three. Gradients cannot be taken in forward instead, as is
often done: the weight's needs each row's upstream gradient, which differs from row to row (importance
weights) and is known in backward only.

The weight's gradient is summed over chunks in fp32. One chunk's product is rounded to the dtype of its
factors first, which costs no more than the rounding of the final sum does, and half the memory.

Shapes: N rows, D width, V vocabulary.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Inputs", "RowStatistics", "backward", "fits_one_chunk", "forward", "most_bytes", "row_parts"]


class Inputs(NamedTuple):
    """What the operation is a function of."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    targets_N: Tensor


class RowStatistics(NamedTuple):
    """What is known of a row: all fp32 (fp64 for fp64 logits), predictions int64.

    ``total_N`` sums ``exp(logit - highest)``: apart from ``highest_N``, so that large logits lose no digits.
    """

    losses_N: Tensor
    predictions_N: Tensor
    highest_N: Tensor
    total_N: Tensor

    def rows(self, part: slice) -> "RowStatistics":
        """Return views of some rows."""
        return RowStatistics(*(tensor[part] for tensor in self))

    @staticmethod
    def empty(hidden_ND: Tensor) -> "RowStatistics":
        """Return room for the statistics of all rows."""
        dtype = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        losses, highest, total = (hidden_ND.new_empty(hidden_ND.shape[0], dtype=dtype) for _ in range(3))
        return RowStatistics(losses, torch.empty_like(losses, dtype=torch.int64), highest, total)


def fits_one_chunk(num_rows: int, num_columns: int, chunk_elements: int) -> bool:
    """Return whether the logits of all rows are kept."""
    return num_rows <= max(1, chunk_elements // num_columns)


def most_bytes(device: torch.device, least: int) -> int:
    """Return how many bytes of logits may be in flight: on a GPU a sixteenth of its memory, but not below ``least``.

    Not of what is free: a run that is repeated beside another one shall add up the same chunks.
    """
    return max(least, torch.cuda.get_device_properties(device).total_memory // 16 if device.type == "cuda" else 0)


def forward(rows: ModuleType, inputs: Inputs, ignore_index: int, chunk_elements: int) -> tuple[RowStatistics, Tensor]:
    """Return the statistics of all rows, and what is kept of them (an empty tensor where nothing is).

    Args:
        rows: the row-wise part, the module ``torch_rows`` or ``triton_rows``.
        chunk_elements: logits in flight at once.
    """
    hidden_ND, weight_VD, bias_V, targets_N = inputs
    num_columns = weight_VD.shape[0]
    ignored = targets_N == ignore_index
    targets = targets_N.masked_fill(ignored, 0)
    weight = weight_VD.to(hidden_ND.dtype)
    statistics = RowStatistics.empty(hidden_ND)
    parts = list(row_parts(hidden_ND.shape[0], num_columns, chunk_elements))
    buffer = rows.allocate(hidden_ND, parts[0].stop if parts else 0, num_columns)
    for part in parts:
        logits = buffer[: part.stop - part.start, :num_columns]
        rows.logits_(logits, hidden_ND[part], weight, bias_V)
        rows.statistics_(statistics.rows(part), logits, bias_V, targets[part])
    statistics.losses_N.masked_fill_(ignored, 0.0)
    return statistics, buffer if len(parts) <= 1 else hidden_ND.new_empty(0)


def backward(
    rows: ModuleType,
    inputs: Inputs,
    ignore_index: int,
    chunk_elements: int,
    *,
    grad_losses_N: Tensor,
    highest_N: Tensor,
    total_N: Tensor,
    kept: Tensor | None,
    overwrite: bool,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of hidden, weight and bias; None where not ``wanted``.

    Args:
        kept: from ``forward``, if it kept anything; overwritten under ``overwrite``.
    """
    hidden_ND, weight_VD, bias_V, targets_N = inputs
    num_rows, num_columns = hidden_ND.shape[0], weight_VD.shape[0]
    ignored = targets_N == ignore_index
    targets = targets_N.masked_fill(ignored, 0)
    grad_losses = grad_losses_N.to(total_N.dtype).masked_fill(ignored, 0.0).contiguous()
    weight = weight_VD.to(hidden_ND.dtype)
    grad_hidden = hidden_ND.new_empty(hidden_ND.shape) if wanted[0] else None
    grad_weight, grad_bias = None, None
    parts = list(row_parts(num_rows, num_columns, chunk_elements))
    buffer = kept if kept is not None and overwrite else None
    if buffer is None:
        buffer = rows.allocate(hidden_ND, parts[0].stop if parts else 0, num_columns)
    for part in parts:
        grad_logits = buffer[: part.stop - part.start, :num_columns]
        values = grad_logits if kept is None else kept[:, :num_columns]
        if kept is None:
            rows.logits_(values, hidden_ND[part], weight, bias_V)
        rows.gradients_(
            grad_logits,
            values,
            kept is not None,
            bias_V,
            targets[part],
            highest_N[part],
            total_N[part],
            grad_losses[part],
        )
        if wanted[2]:
            grad_bias = _add(grad_bias, grad_logits.sum(dim=0, dtype=grad_losses.dtype))
        grad_logits = grad_logits.to(hidden_ND.dtype)
        if grad_hidden is not None:
            torch.mm(grad_logits, weight, out=grad_hidden[part])
        if wanted[1]:
            grad_weight = _add_product(
                grad_weight, grad_logits, hidden_ND[part], grad_losses.dtype if len(parts) > 1 else None
            )
    if wanted[1]:
        grad_weight = torch.zeros_like(weight_VD) if grad_weight is None else grad_weight.to(weight_VD.dtype)
    if wanted[2] and bias_V is not None:
        grad_bias = torch.zeros_like(bias_V) if grad_bias is None else grad_bias.to(bias_V.dtype)
    return grad_hidden, grad_weight, grad_bias


def row_parts(num_rows: int, num_columns: int, chunk_elements: int) -> Iterator[slice]:
    """Cut the rows into as few chunks as allowed, of one size but for the last: one shape of product."""
    most = max(1, chunk_elements // num_columns)
    num_parts = -(-num_rows // most)
    size = -(-num_rows // max(1, num_parts))
    for start in range(0, num_rows, max(1, size)):
        yield slice(start, min(start + size, num_rows))


def _add(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total.add_(term)


def _add_product(
    total_VD: Tensor | None, grad_logits_NV: Tensor, hidden_ND: Tensor, dtype: torch.dtype | None
) -> Tensor:
    """Add a chunk's ``G^T h`` to the sum, which is kept in ``dtype`` (None: as it is, there is one chunk)."""
    if total_VD is not None and total_VD.dtype == hidden_ND.dtype:
        return total_VD.addmm_(grad_logits_NV.t(), hidden_ND)
    product = grad_logits_NV.t() @ hidden_ND
    return _add(total_VD, product) if total_VD is not None or dtype is None else product.to(dtype)
