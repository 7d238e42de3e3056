"""Cross-entropy over a (tied) embedding that never holds more than a chunk of the logits.

Shapes: N rows, D width, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["LinearCrossEntropyOutput", "linear_cross_entropy"]

# Logits in flight at once, in elements: 32M fp32 logits are 128 MiB.
_CHUNK_ELEMENTS = 1 << 25


class LinearCrossEntropyOutput(NamedTuple):
    """``losses_N`` in nats (fp32, or fp64 for fp64 input) and ``predictions_N``, the int64 arg max."""

    losses_N: Tensor
    predictions_N: Tensor


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    *,
    ignore_index: int = -100,
    chunk_elements: int = _CHUNK_ELEMENTS,
) -> LinearCrossEntropyOutput:
    """Cross-entropy of ``softmax(h W^T + b)`` against ``targets_N``, row by row, with the arg max.

    Rows are taken in chunks of ``chunk_elements / V``. Where one chunk holds them all, its exponentials are
    kept for the backward pass; otherwise backward computes each chunk's logits again.

    Args:
        hidden_ND: floating point; logits are computed in its dtype, the softmax in fp32 (fp64 for fp64).
        bias_V: added to the logits, or None.
        targets_N: int64; rows with ``ignore_index`` have loss 0 and no gradient.

    Returns:
        ``losses_N`` and ``predictions_N``. Equal to ``reference.linear_cross_entropy``, gradients included.
    """
    losses, predictions = _ChunkedLinearCrossEntropy.apply(
        hidden_ND, weight_VD, bias_V, targets_N, ignore_index, max(1, chunk_elements // weight_VD.shape[0])
    )
    return LinearCrossEntropyOutput(losses, predictions)


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        ignore_index: int,
        chunk_rows: int,
    ) -> tuple[Tensor, Tensor]:
        num_rows = hidden_ND.shape[0]
        losses = _accumulator(hidden_ND, num_rows)
        log_normalizer = _accumulator(hidden_ND, num_rows)
        predictions = targets_N.new_empty(num_rows)
        kept = None
        for start in range(0, num_rows, chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = _logits(hidden_ND[rows], weight_VD, bias_V)
            highest, predictions[rows] = logits.max(dim=1)
            target_logit = logits.gather(1, targets_N[rows].clamp(min=0)[:, None])[:, 0]
            exponentials = logits.sub_(highest[:, None]).exp_()
            log_normalizer[rows] = highest + exponentials.sum(dim=1).log()
            losses[rows] = log_normalizer[rows] - target_logit
            if num_rows <= chunk_rows:
                # softmax is this times exp(highest - log_normalizer): backward needs no second exp
                kept = exponentials, highest
        losses.masked_fill_(targets_N == ignore_index, 0.0)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, log_normalizer)
        ctx.kept = kept
        ctx.ignore_index, ctx.chunk_rows = ignore_index, chunk_rows
        ctx.mark_non_differentiable(predictions)
        return losses, predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N, log_normalizer = ctx.saved_tensors
        grad_losses_N = grad_losses_N.masked_fill(targets_N == ctx.ignore_index, 0.0)
        num_rows, chunk_rows = hidden_ND.shape[0], ctx.chunk_rows
        weight = weight_VD.to(hidden_ND.dtype)
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight = torch.zeros_like(weight_VD, dtype=log_normalizer.dtype)
        grad_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=log_normalizer.dtype)
        kept, ctx.kept = ctx.kept, None  # overwritten below, so a second backward computes it again
        for start in range(0, num_rows, chunk_rows):
            rows = slice(start, start + chunk_rows)
            grad_rows = grad_losses_N[rows]
            if kept is None:
                grad_logits = _logits(hidden_ND[rows], weight_VD, bias_V)
                grad_logits.sub_(log_normalizer[rows, None]).exp_().mul_(grad_rows[:, None])
            else:
                exponentials, highest = kept
                grad_logits = exponentials.mul_((grad_rows * (highest - log_normalizer).exp())[:, None])
            grad_logits.scatter_add_(1, targets_N[rows].clamp(min=0)[:, None], -grad_rows[:, None])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(dim=0)
            grad_logits = grad_logits.to(hidden_ND.dtype)
            grad_hidden[rows] = grad_logits @ weight
            if grad_weight.dtype == hidden_ND.dtype:
                grad_weight.addmm_(grad_logits.t(), hidden_ND[rows])
            else:
                grad_weight += grad_logits.t() @ hidden_ND[rows]
        grad_bias = None if bias_V is None or grad_bias is None else grad_bias.to(bias_V.dtype)
        return grad_hidden, grad_weight.to(weight_VD.dtype), grad_bias, None, None, None


def _accumulator(like: Tensor, num_rows: int) -> Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.empty(num_rows, dtype=dtype, device=like.device)


def _logits(hidden: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    """Logits of some rows as a fresh fp32 (or fp64) tensor, the product computed in ``hidden``'s dtype."""
    weight = weight_VD.to(hidden.dtype)
    if bias_V is None:
        logits = hidden @ weight.t()
    else:
        logits = torch.addmm(bias_V.to(hidden.dtype), hidden, weight.t())
    return logits if logits.dtype == torch.float64 else logits.float()
