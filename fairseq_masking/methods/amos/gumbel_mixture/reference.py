"""The definition of the Gumbel mixture: short, slow, materialises everything, checkable in fp64."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gumbel_mixture"]


def gumbel_mixture(
    hidden_KND: Tensor,
    weights_NK: Tensor,
    embedding_VD: Tensor,
    bias_V: Tensor | None,
    noise_NV: Tensor,
    *,
    temperature: float,
    scale: float,
    hidden_scale: float,
) -> tuple[Tensor, Tensor]:
    """Straight-through Gumbel-softmax sample of a mixture of hidden states, embedded.

    Returns:
        ``tokens_N`` int64 and ``embedded_ND``, with the gradients that ``ops.gumbel_mixture`` describes.
    """
    mixed = torch.einsum(
        "nk,knd->nd", weights_NK.to(hidden_KND.dtype), _scale_gradient(hidden_KND, hidden_scale)
    )
    logits = F.linear(mixed, embedding_VD.detach(), None if bias_V is None else bias_V.detach())
    logits = logits if logits.dtype == torch.float64 else logits.float()
    perturbed = logits + noise_NV
    tokens = perturbed.argmax(-1)
    soft = _scale_gradient(F.softmax(perturbed / temperature, dim=-1), scale)
    sample = F.one_hot(tokens, embedding_VD.shape[0]) + (soft - soft.detach())
    return tokens, sample.to(embedding_VD.dtype) @ embedding_VD


def _scale_gradient(values: Tensor, scale: float) -> Tensor:
    return values.detach() + scale * (values - values.detach())
