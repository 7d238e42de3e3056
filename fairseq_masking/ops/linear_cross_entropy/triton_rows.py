"""The row-wise part of linear cross-entropy in Triton: one pass over the logits forward, one backward.

The functions are those of ``torch_rows``. Logits stay in the dtype of the
matrix product (the bias is added here, in fp32) and arithmetic is fp32; gradients are written over the
logits. What one chunk holds between forward and backward is the logits. Each row of them begins at a multiple
of 128 bytes: fast matrix products and 16-byte loads need aligned rows, which a vocabulary of 50,265 does not
give. The kernels read and write up to the row's end, so that a load is masked as a whole or not at all.

Shapes: N rows of the chunk, D width, V vocabulary.
"""

# mypy: disallow-untyped-defs=false, disallow-incomplete-defs=false
# (Triton reads the annotations of kernels as types of its own)

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from fairseq_masking.ops.linear_cross_entropy.chunks import RowStatistics, most_bytes

__all__ = ["allocate", "default_chunk_elements", "gradients_", "logits_", "statistics_"]

_ROW_ELEMENTS = 64
MAX_BLOCK = 2048  # of bf16, 16 bytes for each of 256 threads


def default_chunk_elements(hidden_ND: Tensor) -> int:
    """Return how many logits may be in flight: 512 MiB, or what ``most_bytes`` says."""
    return most_bytes(hidden_ND.device, 512 << 20) // hidden_ND.element_size()


def allocate(hidden_ND: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return room for a chunk's logits in ``hidden``'s dtype: the first ``num_columns`` columns of it."""
    return hidden_ND.new_empty(num_rows, -(-num_columns // _ROW_ELEMENTS) * _ROW_ELEMENTS)


def logits_(logits_NV: Tensor, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> None:
    """Write ``h W^T`` into ``logits_NV``; the kernels add the bias."""
    torch.mm(hidden_ND, weight_VD.t(), out=logits_NV)


def statistics_(statistics: RowStatistics, logits_NV: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> None:
    """Fill ``statistics``; the logits stay as they are."""
    num_rows, num_columns = logits_NV.shape
    block = min(MAX_BLOCK, triton.next_power_of_2(num_columns))
    with device_of(logits_NV):
        _statistics_kernel[(num_rows,)](
            logits_NV,
            logits_NV.stride(0),
            logits_NV if bias_V is None else to_row_end(bias_V),
            targets_N,
            *statistics,
            NUM_COLUMNS=num_columns,
            HAS_BIAS=bias_V is not None,
            BLOCK=block,
            num_warps=num_warps_for(block),
        )


def gradients_(
    out_NV: Tensor,
    values_NV: Tensor,
    kept: bool,
    bias_V: Tensor | None,
    targets_N: Tensor,
    highest_N: Tensor,
    total_N: Tensor,
    grad_losses_N: Tensor,
) -> None:
    """As ``torch_rows``'; both are views of what ``allocate`` gave, with no meaning beyond their last column."""
    num_rows, row_elements = values_NV.shape[0], values_NV.stride(0)
    block = min(MAX_BLOCK, triton.next_power_of_2(row_elements))
    with device_of(values_NV):
        _gradient_kernel[(num_rows, triton.cdiv(row_elements, block))](
            out_NV,
            values_NV,
            values_NV.stride(0),
            values_NV if bias_V is None else to_row_end(bias_V),
            targets_N,
            highest_N,
            total_N,
            grad_losses_N,
            HAS_BIAS=bias_V is not None,
            BLOCK=block,
            num_warps=num_warps_for(block),
        )


def to_row_end(bias_V: Tensor) -> Tensor:
    """Return the bias as long as a row."""
    missing = -bias_V.shape[0] % _ROW_ELEMENTS
    return F.pad(bias_V, (0, missing)) if missing else bias_V.contiguous()


def num_warps_for(block: int) -> int:
    return max(1, min(8, block // 256))


def device_of(tensor: Tensor) -> AbstractContextManager:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@triton.jit
def add_columns(highest, first, total, values, columns, inverse_temperature):
    """Take in the values of some more columns of a row's softmax at a temperature.

    Each lane goes through its own columns and keeps their maximum, where that was first seen, and the sum of
    exponentials below it; lanes meet only at the end.
    """
    higher = values > highest
    # one exponential rescales the sum or is the new term; equal infinities must not give inf - inf
    distance = tl.where(values == highest, 0.0, tl.abs(values - highest))
    factor = tl.exp(-distance * inverse_temperature)
    total = tl.where(higher, total * factor + 1.0, total + factor)
    return tl.where(higher, values, highest), tl.where(higher, columns, first), total


@triton.jit
def join_lanes(highest, first, total, inverse_temperature, NUM_COLUMNS: tl.constexpr):
    """The row's maximum, its first column, and the sum of exponentials below it."""
    row_highest = tl.max(highest, axis=0)
    row_first = tl.min(tl.where(highest == row_highest, first, NUM_COLUMNS), axis=0)
    row_total = tl.sum(total * tl.exp((highest - row_highest) * inverse_temperature), axis=0)
    return row_highest, row_first, row_total


@triton.jit
def _statistics_kernel(
    logits, logits_stride, bias, targets, losses, predictions, highest_out, total_out,
    NUM_COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_stride
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    first = tl.zeros((BLOCK,), tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, NUM_COLUMNS, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(logits + columns, mask=columns < logits_stride, other=0.0).to(tl.float32)
        if HAS_BIAS:
            values += tl.load(bias + columns, mask=columns < logits_stride, other=0.0).to(tl.float32)
        values = tl.where(columns < NUM_COLUMNS, values, float("-inf"))
        highest, first, total = add_columns(highest, first, total, values, columns, 1.0)
    row_highest, row_first, row_total = join_lanes(highest, first, total, 1.0, NUM_COLUMNS)
    target = tl.load(targets + row)
    in_vocabulary = (target >= 0) & (target < NUM_COLUMNS)
    target_logit = tl.load(logits + target, mask=in_vocabulary, other=float("nan")).to(tl.float32)
    if HAS_BIAS:
        target_logit += tl.load(bias + target, mask=in_vocabulary, other=0.0).to(tl.float32)
    tl.store(losses + row, row_highest - target_logit + tl.log(row_total))
    tl.store(predictions + row, row_first.to(tl.int64))
    tl.store(highest_out + row, row_highest)
    tl.store(total_out + row, row_total)


@triton.jit
def _gradient_kernel(
    out, logits, logits_stride, bias, targets, highest, total, grad_losses,
    HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < logits_stride
    values = tl.load(logits + row * logits_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        values += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.load(grad_losses + row)
    scale = gradient / tl.load(total + row)
    values = tl.exp(values - tl.load(highest + row)) * scale
    values = tl.where(columns == tl.load(targets + row), values - gradient, values)
    tl.store(out + row * logits_stride + columns, values.to(out.dtype.element_ty), mask=inside)
