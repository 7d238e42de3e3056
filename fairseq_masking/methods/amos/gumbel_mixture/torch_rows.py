"""The row-wise part of the Gumbel mixture in PyTorch: the sample and the gradient of a chunk of logits.

``triton_rows`` offers the same functions; logits are those of linear cross-entropy.
Shapes: N rows of the chunk, V vocabulary.
"""

import torch
from torch import Tensor

from fairseq_masking.methods.amos.gumbel_mixture.chunks import Noise, Sample
from fairseq_masking.methods.amos.gumbel_mixture.noise import add_gumbel_noise_
from fairseq_masking.ops.linear_cross_entropy.torch_rows import allocate, logits_

__all__ = ["allocate", "default_chunk_elements", "gradients_", "logits_", "sample_"]


def default_chunk_elements(hidden_KND: Tensor) -> int:
    """Return how many logits may be in flight: 8 MiB of fp32 on a CPU, 64 MiB on a GPU."""
    return 1 << (24 if hidden_KND.is_cuda else 21)


def sample_(
    sample: Sample, logits_NV: Tensor, bias_V: Tensor | None, noise: Noise, temperature: float
) -> None:
    """Fill ``sample`` from logits that hold the bias already and are written over."""
    perturbed = _perturb_(logits_NV, noise)
    torch.max(perturbed, dim=1, out=(sample.highest_N, sample.tokens_N))
    torch.sum(_exponentials_(perturbed, sample.highest_N, temperature), dim=1, out=sample.total_N)


def gradients_(
    grad_NV: Tensor,
    logits_NV: Tensor,
    bias_V: Tensor | None,
    noise: Noise,
    temperature: float,
    sample: Sample,
) -> None:
    """Turn the gradient of the soft sample ``y`` into that of the logits times the temperature, in place.

    ``y (grad - <y, grad>)``. The logits hold the bias already and are written over.
    """
    soft = _exponentials_(_perturb_(logits_NV, noise), sample.highest_N, temperature)
    soft.div_(sample.total_N[:, None])
    grad_NV.mul_(soft).addcmul_(soft, grad_NV.sum(dim=1, keepdim=True), value=-1)


def _perturb_(logits_NV: Tensor, noise: Noise) -> Tensor:
    if noise.given_NV is None:
        return add_gumbel_noise_(logits_NV, noise.keys_N2)
    return logits_NV.add_(noise.given_NV)


def _exponentials_(perturbed_NV: Tensor, highest_N: Tensor, temperature: float) -> Tensor:
    return perturbed_NV.sub_(highest_N[:, None]).div_(temperature).exp_()
