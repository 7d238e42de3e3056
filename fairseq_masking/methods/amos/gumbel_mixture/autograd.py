"""The Gumbel mixture joined to autograd: two custom operators, each one node of a compiled graph.

The embedding's own gradient, that of its sampled rows, is a plain operation of PyTorch. The operators do what
runs over the vocabulary.

Shapes: K hidden states, N rows, D width, V vocabulary.
"""

from types import ModuleType
from typing import Any, Optional

import torch
from torch import Tensor

from fairseq_masking.methods.amos.gumbel_mixture import chunks as chunks
from fairseq_masking.methods.amos.gumbel_mixture import torch_rows
from fairseq_masking.methods.amos.gumbel_mixture.chunks import Inputs, Noise, Sample
from fairseq_masking.ops.dispatch import choose_impl

__all__ = ["sample"]


def _plan(hidden_KND: Tensor, chunk_elements: int | None, impl: str) -> tuple[ModuleType, int]:
    """Return the module with the row-wise part, and how many logits may be in flight."""
    rows: ModuleType = torch_rows
    if choose_impl("gumbel_mixture", impl, hidden_KND.device, hidden_KND.dtype) == "triton":
        # late, since TRITON_INTERPRET counts when kernels are defined, and Triton may not be installed
        from fairseq_masking.methods.amos.gumbel_mixture import triton_rows as rows
    return rows, chunk_elements or rows.default_chunk_elements(hidden_KND)


@torch.library.custom_op("fairseq_masking::gumbel_mixture", mutates_args=())
def sample(
    hidden_KND: Tensor,
    weights_NK: Tensor,
    embedding_VD: Tensor,
    bias_V: Optional[Tensor],
    seed: Tensor,
    noise_NV: Optional[Tensor],
    temperature: float,
    scale: float,
    hidden_scale: float,
    chunk_elements: Optional[int],
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the embedded tokens, and the ``Sample``."""
    rows, chunk_elements = _plan(hidden_KND, chunk_elements, impl)
    inputs = Inputs(hidden_KND, weights_NK, embedding_VD, bias_V)
    noise = Noise(torch_rows.row_keys(seed, weights_NK.shape[0], weights_NK.device), noise_NV)
    drawn = chunks.forward(rows, inputs, noise, temperature=temperature, chunk_elements=chunk_elements)
    return embedding_VD.index_select(0, drawn.tokens_N), *drawn


@sample.register_fake
def _(hidden_KND: Tensor, weights_NK: Tensor, embedding_VD: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return embedding_VD.new_empty(hidden_KND.shape[1:]), *Sample.empty(hidden_KND)


@torch.library.custom_op("fairseq_masking::gumbel_mixture_backward", mutates_args=())
def _backward_operator(
    grad_embedded_ND: Tensor,
    hidden_KND: Tensor,
    weights_NK: Tensor,
    embedding_VD: Tensor,
    bias_V: Optional[Tensor],
    seed: Tensor,
    noise_NV: Optional[Tensor],
    tokens_N: Tensor,
    highest_N: Tensor,
    total_N: Tensor,
    temperature: float,
    scale: float,
    hidden_scale: float,
    chunk_elements: Optional[int],
    impl: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of hidden and weights; empty tensors where not wanted."""
    rows, chunk_elements = _plan(hidden_KND, chunk_elements, impl)
    gradients = chunks.backward(
        rows,
        Inputs(hidden_KND, weights_NK, embedding_VD, bias_V),
        Noise(torch_rows.row_keys(seed, weights_NK.shape[0], weights_NK.device), noise_NV),
        Sample(tokens_N, highest_N, total_N),
        grad_embedded_ND,
        temperature=temperature,
        scale=scale,
        hidden_scale=hidden_scale,
        chunk_elements=chunk_elements,
        wanted=(wanted[0], wanted[1]),
    )
    hidden, weights = (hidden_KND.new_empty(0) if grad is None else grad for grad in gradients)
    return hidden, weights


@_backward_operator.register_fake
def _(grad_embedded_ND: Tensor, hidden_KND: Tensor, weights_NK: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    hidden, weights = (
        torch.empty_like(like) if want else hidden_KND.new_empty(0)
        for like, want in zip((hidden_KND, weights_NK), rest[-1], strict=True)
    )
    return hidden, weights


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, ctx.settings = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_embedded_ND: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    hidden, weights, embedding = None, None, None
    if grad_embedded_ND is not None:
        *tensors, tokens, highest, total = ctx.saved_tensors
        _, _, hidden_scale, *_ = ctx.settings
        wanted = [ctx.needs_input_grad[0] and hidden_scale != 0, ctx.needs_input_grad[1]]
        if ctx.needs_input_grad[2]:
            embedding = torch.ops.aten.embedding_dense_backward(
                grad_embedded_ND, tokens, tensors[2].shape[0], -1, False
            )
        if any(wanted):
            gradients = _backward_operator(grad_embedded_ND, *tensors, tokens, highest, total, *ctx.settings, wanted)
            hidden, weights = (grad if want else None for grad, want in zip(gradients, wanted, strict=True))
    return hidden, weights, embedding, *([None] * 8)


sample.register_autograd(_backward, setup_context=_save_for_backward)
