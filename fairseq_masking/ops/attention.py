"""Attention and dropout: PyTorch's kernels, and leaner paths for training on a CPU.

PyTorch's CPU dropout draws one Bernoulli variate an element and keeps the noise as floats for backward. Here
one 64-bit draw decides four elements and the mask is kept as bytes. Its fused CPU attention knows no dropout;
with dropout it falls back to a composition that keeps three ``[B, H, T, T]`` float tensors for backward. The
path here keeps one, and the mask.
Shapes: B batch, T length, H heads, C width of a head; 3 stands for query, key, value.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["dropout", "keep_mask", "self_attention"]

_LEVELS = 1 << 16  # four draws a 64-bit number: probabilities are multiples of 2^-16


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Zero each element with ``probability`` and scale the rest by ``1 / (1 - probability)``.

    On a CPU the probability is rounded to a multiple of 2^-16, and the scale follows what is really applied.
    Draws come from torch's default generator.
    """
    if not training or probability == 0.0:
        return values
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(values, probability)
    return _MaskedScale.apply(values, *keep_mask(values.shape, probability))


def keep_mask(shape: torch.Size, probability: float) -> tuple[Tensor, float]:
    """Return a bool CPU tensor, False with ``probability``, and the scale that keeps the mean."""
    dropped = min(round(probability * _LEVELS), _LEVELS - 1)
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    mask = draws.view(torch.int16)[:count] >= dropped - _LEVELS // 2
    return mask.view(shape), _LEVELS / (_LEVELS - dropped)


class _MaskedScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (values * mask).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return (grad * mask).mul_(ctx.scale), None, None


def self_attention(projected_BT3HC: Tensor, attention_bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Attend from every position to every position: the context ``[B, T, H * C]``, the heads side by side.

    Args:
        attention_bias: bool (True = may be attended to) or float (added to the logits), broadcastable to
            ``[B, H, T, T]``.
        dropout: probability for attention weights; 0 outside of training.
    """
    batch, length, _, heads, width = projected_BT3HC.shape
    lean = projected_BT3HC.device.type == "cpu" and dropout > 0.0 and not torch.compiler.is_compiling()
    if lean and not (attention_bias is not None and attention_bias.requires_grad):
        mask, scale = keep_mask(torch.Size((batch * heads, length, length)), dropout)
        return _LeanAttention.apply(projected_BT3HC, attention_bias, mask, scale)
    query, key, value = projected_BT3HC.permute(2, 0, 3, 1, 4).unbind(0)
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_bias, dropout_p=dropout)
    return context.transpose(1, 2).reshape(batch, length, heads * width)


class _LeanAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected_BT3HC: Tensor, attention_bias: Tensor | None, mask: Tensor, scale: float
    ) -> Tensor:
        batch, length, _, heads, width = projected_BT3HC.shape
        stacked = projected_BT3HC.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, length, width)
        query, key, value = stacked.unbind(0)
        weights = torch.bmm(query, key.transpose(1, 2)).mul_(width**-0.5)
        logits_BHTT = weights.view(batch, heads, length, length)
        if attention_bias is not None and attention_bias.dtype == torch.bool:
            logits_BHTT.masked_fill_(~attention_bias, float("-inf"))
        elif attention_bias is not None:
            logits_BHTT.add_(attention_bias)
        torch.softmax(weights, dim=-1, out=weights)
        context = torch.bmm((weights * mask).mul_(scale), value)
        ctx.save_for_backward(stacked, weights, mask)
        ctx.batch, ctx.scale = batch, scale
        return context.view(batch, heads, length, width).transpose(1, 2).reshape(batch, length, heads * width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_context: Tensor) -> tuple[Tensor, None, None, None]:
        stacked, weights, mask = ctx.saved_tensors
        query, key, value = stacked.unbind(0)
        _, rows, length, width = stacked.shape
        batch, heads = ctx.batch, rows // ctx.batch
        grad = grad_context.view(batch, length, heads, width).transpose(1, 2).reshape(rows, length, width)
        grad_stacked = torch.empty_like(stacked)
        torch.bmm((weights * mask).mul_(ctx.scale).transpose(1, 2), grad, out=grad_stacked[2])
        grad_weights = torch.bmm(grad, value.transpose(1, 2)).mul_(mask).mul_(ctx.scale)
        grad_logits = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_logits.mul_(width**-0.5)
        torch.bmm(grad_logits, key, out=grad_stacked[0])
        torch.bmm(grad_logits.transpose(1, 2), query, out=grad_stacked[1])
        grad_projected = grad_stacked.view(3, batch, heads, length, width).permute(1, 3, 0, 2, 4)
        return grad_projected.contiguous(), None, None, None
