"""Cross-entropy over a (tied) embedding that never holds more than a chunk of the logits.

``reference`` defines the operation; ``chunks`` computes it chunk by chunk and joins it to autograd and
torch.compile, with the row-wise part in PyTorch (``torch_rows``) or Triton (``triton_rows``).

Shapes: N rows, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_masking.ops.linear_cross_entropy.chunks import LinearCrossEntropy, forward_operator

__all__ = ["LinearCrossEntropyOutput", "linear_cross_entropy", "reference"]


class LinearCrossEntropyOutput(NamedTuple):
    """Losses in nats (fp32, or fp64 for fp64 input) and predictions, the int64 arg max (the first)."""

    losses_N: Tensor
    predictions_N: Tensor


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    *,
    ignore_index: int = -100,
    impl: str = "auto",
    chunk_elements: int | None = None,
) -> LinearCrossEntropyOutput:
    """Cross-entropy of ``softmax(h W^T + b)`` against the targets, row by row, with the arg max.

    Several heads over one weight are leading dimensions: hidden ``[K, N, D]`` with targets ``[N]`` gives losses
    ``[K, N]``. The gradients are exact for any upstream gradient. Where one chunk holds all rows it is kept for
    backward, otherwise backward computes the logits again. Under torch.compile the operation is one graph node.

    Args:
        hidden_ND: floating point ``[..., D]``; logits are computed in its dtype, the softmax in fp32 (fp64 for fp64).
        bias_V: added to the logits, or None.
        targets_N: int64, broadcastable to ``[...]``; rows with ``ignore_index`` have loss 0 and no gradient.
            Other values must lie in [0, V): PyTorch raises otherwise, the Triton kernels give a NaN loss.
        impl: ``auto``, ``torch`` or ``triton``, see ``dispatch``.
        chunk_elements: logits in flight at once; by default 128 MiB on a CPU; on a GPU a sixteenth of its memory,
            at least 512 MiB for Triton (an 80 GB one keeps those of 64 x 512 tokens, half of them masked, at V =
            50k in half precision, so that no fourth product runs).

    Returns:
        ``losses`` and ``predictions``, shaped like hidden without its last dimension. Equal to
        ``reference``, gradients included.
    """
    lead = hidden_ND.shape[:-1]
    hidden = hidden_ND.reshape(-1, hidden_ND.shape[-1])
    targets = targets_N.expand(lead).reshape(-1)
    compute = forward_operator if torch.compiler.is_compiling() else LinearCrossEntropy.apply
    losses, predictions, *_ = compute(hidden, weight_VD, bias_V, targets, ignore_index, chunk_elements, impl)
    return LinearCrossEntropyOutput(losses.view(lead), predictions.view(lead))


def reference(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """The definition: short, slow, materialises all, checkable in fp64."""
    logits = F.linear(hidden_ND, weight_VD, bias_V)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(logits, targets_N, reduction="none", ignore_index=ignore_index)
    return losses, logits.argmax(-1)
