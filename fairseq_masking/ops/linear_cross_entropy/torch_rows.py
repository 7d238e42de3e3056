"""The row-wise part of linear cross-entropy in PyTorch: statistics and gradients of a chunk of logits.

``triton_rows`` offers the same four functions. What one chunk holds between forward and
backward is here the exponentials, in fp32, so that backward needs no second exponential.
Shapes: N rows of the chunk, D width, V vocabulary.
"""

import torch
from torch import Tensor

from fairseq_masking.ops.linear_cross_entropy.chunks import RowStatistics, most_bytes

__all__ = ["allocate", "default_chunk_elements", "gradients_", "logits_", "statistics_"]


def default_chunk_elements(hidden_ND: Tensor) -> int:
    """Return how many fp32 logits may be in flight: 128 MiB on a CPU, on a GPU 256 MiB or what ``most_bytes`` says."""
    device = hidden_ND.device
    return most_bytes(device, (256 if device.type == "cuda" else 128) << 20) // 4


def allocate(hidden_ND: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return room for a chunk's logits ``[num_rows, num_columns]``, in fp32 (fp64 for fp64)."""
    dtype = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
    return hidden_ND.new_empty(num_rows, num_columns, dtype=dtype)


def logits_(logits_NV: Tensor, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> None:
    """Write ``h W^T + b``, the product computed in ``hidden``'s dtype, into ``logits_NV``."""
    out = logits_NV if logits_NV.dtype == hidden_ND.dtype else None
    if bias_V is None:
        logits = torch.mm(hidden_ND, weight_VD.t(), out=out)
    else:
        logits = torch.addmm(bias_V.to(hidden_ND.dtype), hidden_ND, weight_VD.t(), out=out)
    if out is None:
        logits_NV.copy_(logits)


def statistics_(statistics: RowStatistics, logits_NV: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> None:
    """Fill ``statistics`` from logits that hold the bias already; they become exponentials."""
    torch.max(logits_NV, dim=1, out=(statistics.highest_N, statistics.predictions_N))
    below = statistics.highest_N - logits_NV.gather(1, targets_N[:, None])[:, 0]
    exponentials = logits_NV.sub_(statistics.highest_N[:, None]).exp_()
    torch.sum(exponentials, dim=1, out=statistics.total_N)
    torch.add(below, statistics.total_N.log(), out=statistics.losses_N)


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
    """Write ``(softmax - one-hot) * gradient`` into ``out_NV``, which may be ``values_NV``.

    Args:
        values_NV: exponentials that forward kept, else logits, overwritten.
    """
    if not kept:
        values_NV.sub_(highest_N[:, None]).exp_()
    torch.mul(values_NV, (grad_losses_N / total_N)[:, None], out=out_NV)
    out_NV.scatter_add_(1, targets_N[:, None], -grad_losses_N[:, None])
