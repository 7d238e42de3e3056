"""The row-wise part of the Gumbel mixture in Triton: one pass over the logits forward, two backward.

The functions are those of ``torch_rows``; logits lie as linear cross-entropy's ``triton_rows`` has them, in
the dtype of the matrix product, the bias apart. The bits of the noise are the same too, some twenty integer
operations a logit. Arithmetic is fp32.

Shapes: N rows of the chunk, V vocabulary.
"""

# mypy: disallow-untyped-defs=false, disallow-incomplete-defs=false
# (Triton reads the annotations of kernels as types of its own)

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fairseq_masking.methods.amos.gumbel_mixture.chunks import Noise, Sample
from fairseq_masking.ops.linear_cross_entropy.triton_rows import (
    MAX_BLOCK,
    add_columns,
    allocate,
    device_of,
    join_lanes,
    logits_,
    num_warps_for,
    to_row_end,
)

__all__ = ["allocate", "default_chunk_elements", "gradients_", "logits_", "sample_"]


def default_chunk_elements(hidden_KND: Tensor) -> int:
    """32 MiB are 512 rows of V = 32k in half precision: enough for products at full speed."""
    return (32 << 20) // hidden_KND.element_size()


def sample_(sample: Sample, logits_NV: Tensor, bias_V: Tensor | None, noise: Noise, temperature: float) -> None:
    """Fill ``sample``; the logits stay as they are."""
    with device_of(logits_NV):
        _sample_kernel[(logits_NV.shape[0],)](
            logits_NV, *sample, **_perturbed_logits(logits_NV, bias_V, noise, temperature)
        )


def gradients_(
    grad_NV: Tensor, logits_NV: Tensor, bias_V: Tensor | None, noise: Noise, temperature: float, sample: Sample
) -> None:
    """As ``torch_rows``'; both are views of what ``allocate`` gave, with no meaning beyond their last column."""
    with device_of(logits_NV):
        _gradient_kernel[(logits_NV.shape[0],)](
            logits_NV,
            grad_NV,
            sample.highest_N,
            sample.total_N,
            **_perturbed_logits(logits_NV, bias_V, noise, temperature),
        )


def _perturbed_logits(logits_NV: Tensor, bias_V: Tensor | None, noise: Noise, temperature: float) -> dict[str, Any]:
    """Return the arguments that both kernels share."""
    num_columns = logits_NV.shape[1]
    block = min(MAX_BLOCK, triton.next_power_of_2(num_columns))
    given = noise.keys_N2 if noise.given_NV is None else noise.given_NV.contiguous()
    return {
        "logits_stride": logits_NV.stride(0),
        "bias": logits_NV if bias_V is None else to_row_end(bias_V),
        "keys": noise.keys_N2,
        "noise": given,
        "noise_stride": given.stride(0),
        "inverse_temperature": 1 / temperature,
        "NUM_COLUMNS": num_columns,
        "HAS_BIAS": bias_V is not None,
        "HAS_NOISE": noise.given_NV is not None,
        "BLOCK": block,
        "num_warps": num_warps_for(block),
    }


@triton.jit
def _mix(bits):
    bits ^= bits >> 16
    bits *= 0x7FEB352D
    bits ^= bits >> 15
    bits *= 0x846CA68B
    return bits ^ (bits >> 16)


@triton.jit
def _gumbel(columns, first_key, second_key):
    """The noise of ``torch_rows``, from int32 columns and uint32 keys."""
    bits = _mix(_mix(columns.to(tl.uint32) ^ first_key) ^ second_key) & 0x7FFFFFFF
    uniform = bits.to(tl.float32) * (2.0**-31) + 2.0**-32
    uniform = tl.minimum(uniform, 1.0 - 2.0**-24)
    # -log(1 - u) has lost the digits of a small u
    series = uniform * (1.0 + uniform * (0.5 + uniform * (1.0 / 3.0 + uniform * 0.25)))
    return -tl.log(tl.where(uniform < 1.0 / 64.0, series, -tl.log(1.0 - uniform)))


@triton.jit
def _perturbed(
    row, columns, logits, logits_stride, bias, keys, noise, noise_stride,
    NUM_COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_NOISE: tl.constexpr,
):  # fmt: skip
    """Logits, bias and noise of some columns; -inf beyond the last."""
    inside = columns < logits_stride  # rows are read to their end, so that loads are wide
    values = tl.load(logits + row * logits_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        values += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_NOISE:
        given = tl.load(noise + row * noise_stride + columns, mask=columns < NUM_COLUMNS, other=0.0)
        values += given.to(tl.float32)
    else:
        first_key = tl.load(keys + 2 * row).to(tl.uint32, bitcast=True)
        second_key = tl.load(keys + 2 * row + 1).to(tl.uint32, bitcast=True)
        values += _gumbel(columns, first_key, second_key)
    return tl.where(columns < NUM_COLUMNS, values, float("-inf"))


@triton.jit
def _sample_kernel(
    logits, tokens, highest_out, total_out, logits_stride, bias, keys, noise, noise_stride,
    inverse_temperature,
    NUM_COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_NOISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    first = tl.zeros((BLOCK,), tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, NUM_COLUMNS, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = _perturbed(
            row, columns, logits, logits_stride, bias, keys, noise, noise_stride,
            NUM_COLUMNS, HAS_BIAS, HAS_NOISE,
        )  # fmt: skip
        highest, first, total = add_columns(highest, first, total, values, columns, inverse_temperature)
    row_highest, row_first, row_total = join_lanes(highest, first, total, inverse_temperature, NUM_COLUMNS)
    tl.store(tokens + row, row_first.to(tl.int64))
    tl.store(highest_out + row, row_highest)
    tl.store(total_out + row, row_total)


@triton.jit
def _gradient_kernel(
    logits, grad, highest, total, logits_stride, bias, keys, noise, noise_stride, inverse_temperature,
    NUM_COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_NOISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    grad += row * logits_stride
    row_highest = tl.load(highest + row)
    row_total = tl.load(total + row)
    inner = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, NUM_COLUMNS, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = _perturbed(
            row, columns, logits, logits_stride, bias, keys, noise, noise_stride,
            NUM_COLUMNS, HAS_BIAS, HAS_NOISE,
        )  # fmt: skip
        soft = tl.exp((values - row_highest) * inverse_temperature) / row_total
        upstream = tl.load(grad + columns, mask=columns < logits_stride, other=0.0).to(tl.float32)
        inner += tl.where(columns < NUM_COLUMNS, soft * upstream, 0.0)  # what lies beyond may be NaN
    mean = tl.sum(inner, axis=0)
    # The soft sample is computed again: a row is in the cache, and storing it would round it.
    for start in range(0, NUM_COLUMNS, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = _perturbed(
            row, columns, logits, logits_stride, bias, keys, noise, noise_stride,
            NUM_COLUMNS, HAS_BIAS, HAS_NOISE,
        )  # fmt: skip
        soft = tl.exp((values - row_highest) * inverse_temperature) / row_total
        upstream = tl.load(grad + columns, mask=columns < logits_stride, other=0.0).to(tl.float32)
        result = (soft * (upstream - mean)).to(grad.dtype.element_ty)
        tl.store(grad + columns, result, mask=columns < logits_stride)
