"""Dropout: PyTorch's own on a GPU, a cheaper one on a CPU.

PyTorch's CPU dropout draws one Bernoulli variate an element and keeps the noise as floats for backward. Here
one 64-bit draw decides four elements and the mask is kept as bytes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["dropout", "keep_mask"]

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
