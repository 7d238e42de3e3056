"""Sample tokens from a mixture of hidden states by straight-through Gumbel-softmax, and embed them.

``reference`` defines the operation; ``chunks`` computes it chunk by chunk and joins it to autograd and
torch.compile, with the row-wise part in PyTorch (``torch_rows``) or Triton (``triton_rows``).

Shapes: K hidden states (of generators of K depths), N masked tokens, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_masking.errors import UserError
from fairseq_masking.methods.amos.gumbel_mixture.chunks import forward

__all__ = ["GumbelMixtureOutput", "gumbel_mixture", "reference"]


class GumbelMixtureOutput(NamedTuple):
    """The sampled tokens, int64, and their rows of the embedding."""

    tokens_N: Tensor
    embedded_ND: Tensor


def gumbel_mixture(
    hidden_KND: Tensor,
    weights_NK: Tensor,
    embedding_VD: Tensor,
    bias_V: Tensor | None,
    *,
    temperature: float = 0.3,
    scale: float = -1.0,
    hidden_scale: float = 0.0,
    seed: int | Tensor,
    noise_NV: Tensor | None = None,
    impl: str = "auto",
    chunk_elements: int | None = None,
) -> GumbelMixtureOutput:
    """Sample from ``softmax(E h + b)`` with ``h = sum_k weights_k h_k``; the gradient is a soft sample's.

    Forward takes ``argmax(z + g)`` over the logits ``z`` and Gumbel noise ``g``. Backward, with ``G`` the
    gradient of a row of ``embedded`` and ``y = softmax((z + g) / temperature)``:

        dE[token] += G
        dz = scale * y (E G - <y, E G>) / temperature,   u = E^T dz
        dweights_k = <h_k, u>,   dh_k = hidden_scale * weights_k * u

    No gradient reaches E and b through the logits. Beyond the inputs three numbers a row are kept for
    backward: the noise is a function of the seed and drawn again. Under torch.compile the operation is one
    node of the graph.

    Args:
        hidden_KND: floating point; logits are computed in its dtype, noise and softmax in fp32 (fp64 for fp64).
        weights_NK: of the mixture, used as they are; their softmax is the caller's.
        embedding_VD: E, the tied embedding.
        temperature: of the soft sample, above 0.
        scale: of the soft sample's gradient: -1 makes what produces ``weights`` an adversary.
        hidden_scale: of the gradient of hidden, beside ``scale``; 0: no gradient.
        seed: int64 number or tensor without dimensions. The noise of row n, column v is the same whatever N,
            the chunks, the device and ``impl``, to rounding.
        noise_NV: the noise, in place of the seed's.
        impl: ``auto``, ``torch`` or ``triton``, see ``dispatch``.
        chunk_elements: logits in flight at once; by default 8 MiB on a CPU, 32 MiB for Triton. Backward holds
            twice as many.

    Returns:
        ``tokens`` and ``embedded`` in the embedding's dtype. Equal to ``reference``, gradients
        included; they cannot be differentiated again.

    Source: AMOS, 2204.03243, Eq. 3 and Section 3.2; Jang et al. 2017, 1611.01144 (straight-through).
    """
    if not temperature > 0:
        raise UserError(f"temperature {temperature} of gumbel_mixture must be above 0, such as 0.3")
    if not isinstance(seed, Tensor):
        seed = torch.full((), seed, dtype=torch.int64, device=hidden_KND.device)
    inputs = hidden_KND, weights_NK, embedding_VD, bias_V, seed, noise_NV
    embedded, tokens, *_ = forward(*inputs, temperature, scale, hidden_scale, chunk_elements, impl)
    return GumbelMixtureOutput(tokens, embedded)


def reference(
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
    """The definition: short, slow, materialises everything, checkable in fp64."""
    mixed = torch.einsum("nk,knd->nd", weights_NK.to(hidden_KND.dtype), _scale_gradient(hidden_KND, hidden_scale))
    logits = F.linear(mixed, embedding_VD.detach(), None if bias_V is None else bias_V.detach())
    logits = logits if logits.dtype == torch.float64 else logits.float()
    perturbed = logits + noise_NV
    tokens = perturbed.argmax(-1)
    soft = _scale_gradient(F.softmax(perturbed / temperature, dim=-1), scale)
    sample = F.one_hot(tokens, embedding_VD.shape[0]) + (soft - soft.detach())
    return tokens, sample.to(embedding_VD.dtype) @ embedding_VD


def _scale_gradient(values: Tensor, scale: float) -> Tensor:
    return values.detach() + scale * (values - values.detach())
