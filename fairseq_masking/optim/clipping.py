"""The gradient's norm in two kernels, and clipping by it, with the numbers of fairseq's.

fairseq's own loops over the parameters in Python unless NVIDIA's apex is installed.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

__all__ = ["clip_grad_norm"]


def clip_grad_norm(
    parameters: Iterable[Tensor], max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Scale gradients so that their joint norm is at most ``max_norm``; nothing is read from the device.

    Args:
        max_norm: 0 measures only.
        aggregate_norm_fn: makes the norm over all shards out of this rank's.

    Returns:
        The 2-norm before clipping, fp32 ``[]``.
    """
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return parameters[0].new_zeros(()) if parameters else torch.tensor(0.0)
    # torch.nn.utils.get_total_norm would sum half-precision gradients up in half precision.
    norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
    total_norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    if aggregate_norm_fn is not None:
        total_norm = aggregate_norm_fn(total_norm)
    if max_norm > 0:
        clip_grads_with_norm_(parameters, float(max_norm), total_norm)
    return total_norm
