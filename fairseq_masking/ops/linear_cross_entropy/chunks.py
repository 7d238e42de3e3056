"""Linear cross-entropy chunk by chunk, joined to autograd in eager mode and under torch.compile.

Matrix products are computed here, the row-wise part in PyTorch or Triton. Forward computes a chunk's logits,
reduces them to four numbers a row, and goes on to the next chunk in the same memory. Where one chunk holds all
rows it is kept for backward. Otherwise backward computes the logits again: four products of 2NVD FLOPs in place
of three. Gradients cannot be taken in forward instead, as is often done: the weight's needs each row's upstream
gradient, which differs from row to row (importance weights) and is known in backward only.

The weight's gradient is summed over chunks in fp32. One chunk's product is rounded to the dtype of its
factors first, which costs no more than the rounding of the final sum does, and half the memory.

Eager mode takes an ``autograd.Function``, whose backward writes over what forward kept. In a compiled region
the two halves are custom operators, each one node of the graph: the compiler neither breaks the graph at the
loop over chunks nor unrolls it into something that holds all chunks at once. A compiler copies what an
operator writes over, so there the gradients of kept logits take memory of their own.

That is why eager mode has a way of its own. Forward and backward with V = 32,768, D = 256, fp32, one CPU
core, both in turns, median and quartiles: at N = 1,024 it takes 1.19 s (1.17, 1.21), the operators 1.35 s (1.32,
1.44); at N = 512 0.59 s (0.54, 0.62) and 68 MiB beside the inputs, they 0.65 s (0.61, 0.73) and 131 MiB. Where
backward computes the chunks again (N = 2,048) the two are equal: 3.50 s (3.28, 3.89) and 3.33 s (3.13, 3.67).

Shapes: N rows, D width, V vocabulary.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_masking.ops.dispatch import plan

__all__ = ["LinearCrossEntropy", "RowStatistics", "forward_operator", "most_bytes", "row_parts"]


class RowStatistics(NamedTuple):
    """What is known of a row: all fp32 (fp64 for fp64 logits), predictions int64.

    ``total_N`` sums ``exp(logit - highest)``: apart from ``highest_N``, so that large logits lose no digits.
    """

    losses_N: Tensor
    predictions_N: Tensor
    highest_N: Tensor
    total_N: Tensor

    def rows(self, part: slice) -> "RowStatistics":
        return RowStatistics(*(tensor[part] for tensor in self))

    @staticmethod
    def empty(hidden_ND: Tensor) -> "RowStatistics":
        """Return room for the statistics of all rows."""
        dtype = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        losses, highest, total = (hidden_ND.new_empty(hidden_ND.shape[0], dtype=dtype) for _ in range(3))
        return RowStatistics(losses, torch.empty_like(losses, dtype=torch.int64), highest, total)


def most_bytes(device: torch.device, least: int) -> int:
    """Return how many bytes of logits may be in flight: on a GPU a sixteenth of its memory, but not below ``least``.

    Not of what is free: a run that is repeated beside another one shall add up the same chunks.
    """
    return max(least, torch.cuda.get_device_properties(device).total_memory // 16 if device.type == "cuda" else 0)


def row_parts(num_rows: int, num_columns: int, chunk_elements: int) -> Iterator[slice]:
    """Cut the rows into as few chunks as allowed, of one size but for the last: one shape of product."""
    most = max(1, chunk_elements // num_columns)
    num_parts = -(-num_rows // most)
    size = -(-num_rows // max(1, num_parts))
    for start in range(0, num_rows, max(1, size)):
        yield slice(start, min(start + size, num_rows))


def _forward(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Optional[Tensor],
    targets_N: Tensor,
    ignore_index: int,
    chunk_elements: Optional[int],
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the ``RowStatistics`` of all rows, and what is kept of them (an empty tensor where nothing is)."""
    rows, chunk_elements = plan(__package__, hidden_ND, chunk_elements, impl)
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
    return *statistics, buffer if len(parts) <= 1 else hidden_ND.new_empty(0)


def _gradients(
    grad_losses_N: Tensor,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Optional[Tensor],
    targets_N: Tensor,
    highest_N: Tensor,
    total_N: Tensor,
    kept: Tensor,
    ignore_index: int,
    chunk_elements: Optional[int],
    impl: str,
    wanted: list[bool],
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, weight and bias, empty tensors where not ``wanted``.

    Args:
        kept: from ``_forward``; written over under ``overwrite``.
    """
    rows, chunk_elements = plan(__package__, hidden_ND, chunk_elements, impl)
    num_columns, was_kept = weight_VD.shape[0], kept.numel() > 0
    ignored = targets_N == ignore_index
    targets = targets_N.masked_fill(ignored, 0)
    grad_losses = grad_losses_N.to(total_N.dtype).masked_fill(ignored, 0.0).contiguous()
    weight = weight_VD.to(hidden_ND.dtype)
    grad_hidden = hidden_ND.new_empty(hidden_ND.shape) if wanted[0] else None
    grad_weight, grad_bias = None, None
    parts = list(row_parts(hidden_ND.shape[0], num_columns, chunk_elements))
    buffer = kept
    if not (was_kept and overwrite):
        buffer = rows.allocate(hidden_ND, parts[0].stop if parts else 0, num_columns)
    for part in parts:
        grad_logits = buffer[: part.stop - part.start, :num_columns]
        values = kept[:, :num_columns] if was_kept else grad_logits
        if not was_kept:
            rows.logits_(values, hidden_ND[part], weight, bias_V)
        of_rows = targets[part], highest_N[part], total_N[part], grad_losses[part]
        rows.gradients_(grad_logits, values, was_kept, bias_V, *of_rows)
        if wanted[2]:
            grad_bias = _add(grad_bias, grad_logits.sum(dim=0, dtype=grad_losses.dtype))
        grad_logits = grad_logits.to(hidden_ND.dtype)
        if grad_hidden is not None:
            torch.mm(grad_logits, weight, out=grad_hidden[part])
        if wanted[1]:
            dtype = grad_losses.dtype if len(parts) > 1 else None
            grad_weight = _add_product(grad_weight, grad_logits, hidden_ND[part], dtype)
    if wanted[1]:
        grad_weight = torch.zeros_like(weight_VD) if grad_weight is None else grad_weight.to(weight_VD.dtype)
    if wanted[2] and bias_V is not None:
        grad_bias = torch.zeros_like(bias_V) if grad_bias is None else grad_bias.to(bias_V.dtype)
    hidden, weight, bias = (
        hidden_ND.new_empty(0) if grad is None else grad for grad in (grad_hidden, grad_weight, grad_bias)
    )
    return hidden, weight, bias


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


forward_operator = torch.library.custom_op("fairseq_masking::linear_cross_entropy", _forward, mutates_args=())
_backward_operator = torch.library.custom_op(
    "fairseq_masking::linear_cross_entropy_backward",
    _gradients,
    mutates_args=(),
    schema="(Tensor grad_losses_N, Tensor hidden_ND, Tensor weight_VD, Tensor? bias_V, Tensor targets_N,"
    " Tensor highest_N, Tensor total_N, Tensor kept, SymInt ignore_index, SymInt? chunk_elements, str impl,"
    " bool[] wanted) -> (Tensor, Tensor, Tensor)",  # without overwrite
)


@forward_operator.register_fake
def _(hidden_ND: Tensor, weight_VD: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, chunk_elements = plan(__package__, hidden_ND, *rest[-2:])
    num_rows, num_columns = hidden_ND.shape[0], weight_VD.shape[0]
    if num_rows <= max(1, chunk_elements // num_columns):  # one chunk
        kept = rows.allocate(hidden_ND, num_rows, num_columns)
    else:
        kept = hidden_ND.new_empty(0)
    return *RowStatistics.empty(hidden_ND), kept


@_backward_operator.register_fake
def _(
    grad_losses_N: Tensor, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Optional[Tensor], *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight, bias = (
        like.new_empty(like.shape) if want and like is not None else hidden_ND.new_empty(0)
        for like, want in zip((hidden_ND, weight_VD, bias_V), rest[-1], strict=True)
    )
    return hidden, weight, bias


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, predictions, *saved = output
    ctx.save_for_backward(*inputs[:4], *saved)
    ctx.settings = inputs[4:]
    ctx.mark_non_differentiable(predictions, *saved)
    ctx.set_materialize_grads(False)  # no zeros the size of what was kept


def _differentiate(
    gradients: Callable[..., tuple[Tensor, ...]], ctx: Any, grad_losses_N: Tensor | None, *kept: Tensor
) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:3])
    if grad_losses_N is None:
        return (None,) * 7
    found = gradients(grad_losses_N, *ctx.saved_tensors, *kept, *ctx.settings, wanted)
    return *(grad if want else None for grad, want in zip(found, wanted, strict=True)), None, None, None, None


forward_operator.register_autograd(
    lambda ctx, grad_losses_N, *_: _differentiate(_backward_operator, ctx, grad_losses_N),
    setup_context=_save_for_backward,
)


class LinearCrossEntropy(torch.autograd.Function):
    """Eager mode: losses and predictions ``[N]``."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *output, ctx.kept = _forward(*inputs)
        _save_for_backward(ctx, inputs, tuple(output))
        return output[0], output[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        kept, ctx.kept = ctx.kept, ctx.kept.new_empty(0)  # written over, so a second backward computes it again
        return _differentiate(partial(_gradients, overwrite=True), ctx, grad_losses_N, kept)
