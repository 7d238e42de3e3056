"""Linear cross-entropy joined to autograd, in eager mode and under torch.compile.

Eager mode takes an ``autograd.Function``, whose backward writes over what forward kept. In a compiled region
the two halves are custom operators, each one node of the graph: the compiler neither breaks the graph at the
loop over chunks nor unrolls it into something that holds all chunks at once. A compiler copies what an
operator writes over, so there the gradients of kept logits take memory of their own.

That is why eager mode has a way of its own. Forward and backward with V = 32,768, D = 256, fp32, one CPU
core, both in turns, median and quartiles: at N = 1,024 it takes 1.19 s (1.17, 1.21), the operators 1.35 s
(1.32, 1.44); at N = 512 0.59 s (0.54, 0.62) and 68 MiB beside the inputs, they 0.65 s (0.61, 0.73) and 131
MiB. Where backward computes the chunks again (N = 2,048) the two are equal: 3.50 s (3.28, 3.89) and 3.33 s
(3.13, 3.67).

Shapes: N rows, D width, V vocabulary.
"""

from types import ModuleType
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairseq_masking.ops.dispatch import choose_impl
from fairseq_masking.ops.linear_cross_entropy import chunks as chunks
from fairseq_masking.ops.linear_cross_entropy import torch_rows
from fairseq_masking.ops.linear_cross_entropy.chunks import Inputs, RowStatistics

__all__ = ["LinearCrossEntropy", "forward_operator"]


def _plan(hidden_ND: Tensor, chunk_elements: int | None, impl: str) -> tuple[ModuleType, int]:
    """Return the module with the row-wise part, and how many logits may be in flight."""
    rows: ModuleType = torch_rows
    if choose_impl("linear_cross_entropy", impl, hidden_ND.device, hidden_ND.dtype) == "triton":
        # late, since TRITON_INTERPRET counts when kernels are defined, and Triton may not be installed
        from fairseq_masking.ops.linear_cross_entropy import triton_rows as rows
    return rows, chunk_elements or rows.default_chunk_elements(hidden_ND)


class LinearCrossEntropy(torch.autograd.Function):
    """Eager mode: losses and predictions ``[N]``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        ignore_index: int,
        chunk_elements: int | None,
        impl: str,
    ) -> tuple[Tensor, Tensor]:
        inputs = Inputs(hidden_ND, weight_VD, bias_V, targets_N)
        ctx.rows, chunk_elements = _plan(hidden_ND, chunk_elements, impl)
        ctx.settings = ignore_index, chunk_elements
        statistics, kept = chunks.forward(ctx.rows, inputs, *ctx.settings)
        ctx.save_for_backward(*inputs, statistics.highest_N, statistics.total_N)
        ctx.kept = kept if kept.numel() else None
        ctx.mark_non_differentiable(statistics.predictions_N)
        return statistics.losses_N, statistics.predictions_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, highest, total = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None  # overwritten, so a second backward computes it again
        gradients = chunks.backward(
            ctx.rows,
            Inputs(*inputs),
            *ctx.settings,
            grad_losses_N=grad_losses_N,
            highest_N=highest,
            total_N=total,
            kept=kept,
            overwrite=True,
            wanted=ctx.needs_input_grad[:3],
        )
        return *gradients, None, None, None, None


@torch.library.custom_op("fairseq_masking::linear_cross_entropy", mutates_args=())
def forward_operator(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Optional[Tensor],
    targets_N: Tensor,
    ignore_index: int,
    chunk_elements: Optional[int],
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return losses, predictions, highest, total (see ``RowStatistics``) and what is kept for backward."""
    inputs = Inputs(hidden_ND, weight_VD, bias_V, targets_N)
    rows, chunk_elements = _plan(hidden_ND, chunk_elements, impl)
    statistics, kept = chunks.forward(rows, inputs, ignore_index, chunk_elements)
    return *statistics, kept


@forward_operator.register_fake
def _(hidden_ND: Tensor, weight_VD: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, chunk_elements = _plan(hidden_ND, *rest[-2:])
    num_rows, num_columns = hidden_ND.shape[0], weight_VD.shape[0]
    if chunks.fits_one_chunk(num_rows, num_columns, chunk_elements):
        kept = rows.allocate(hidden_ND, num_rows, num_columns)
    else:
        kept = hidden_ND.new_empty(0)
    return *RowStatistics.empty(hidden_ND), kept


@torch.library.custom_op("fairseq_masking::linear_cross_entropy_backward", mutates_args=())
def _backward_operator(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, weight and bias; empty tensors where not wanted."""
    rows, chunk_elements = _plan(hidden_ND, chunk_elements, impl)
    gradients = chunks.backward(
        rows,
        Inputs(hidden_ND, weight_VD, bias_V, targets_N),
        ignore_index,
        chunk_elements,
        grad_losses_N=grad_losses_N,
        highest_N=highest_N,
        total_N=total_N,
        kept=kept if kept.numel() else None,
        overwrite=False,
        wanted=(wanted[0], wanted[1], wanted[2]),
    )
    hidden, weight, bias = (hidden_ND.new_empty(0) if grad is None else grad for grad in gradients)
    return hidden, weight, bias


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
    *tensors, ignore_index, chunk_elements, impl = inputs
    _, predictions, *saved = output
    ctx.save_for_backward(*tensors, *saved)
    ctx.settings = ignore_index, chunk_elements, impl
    ctx.mark_non_differentiable(predictions, *saved)
    ctx.set_materialize_grads(False)  # no zeros the size of what was kept


def _backward(ctx: Any, grad_losses_N: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:3]
    if grad_losses_N is None:
        return (None,) * 7
    gradients = _backward_operator(grad_losses_N, *ctx.saved_tensors, *ctx.settings, list(wanted))
    hidden, weight, bias = (grad if want else None for grad, want in zip(gradients, wanted, strict=True))
    return hidden, weight, bias, None, None, None, None


forward_operator.register_autograd(_backward, setup_context=_save_for_backward)
