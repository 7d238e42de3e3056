"""The definition of operations that methods share: short, slow, materialises all, checkable in fp64."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of ``softmax(h W^T + b)`` and the arg max, per row.

    Returns:
        ``losses_N`` in nats (fp32, or fp64 for fp64 input; 0 where ignored) and ``predictions_N`` int64.
    """
    logits = F.linear(hidden_ND, weight_VD, bias_V)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(logits, targets_N, reduction="none", ignore_index=ignore_index)
    return losses, logits.argmax(-1)
