"""The row-wise part of the Gumbel mixture in PyTorch: noise, sample and gradient of a chunk of logits.

``triton_rows`` offers the same functions; logits are those of linear cross-entropy.

A column's noise is 32 bits made of its number and its row's two keys, by two rounds of a mixing function, each
entered through one of the keys. The Triton kernels compute the same bits. On a CPU it costs a quarter of
``exponential_`` and its logarithm (scripts/bench/operations.py, gumbel_noise).

Uniform numbers are fine near 0, where the large variates come from: what has a probability of 1e-8 is drawn
at that rate, which the 24 bits of ``torch.rand`` do not give.

Source: C. Wellons' lowbias32, a mixing function found by search for the least avalanche bias.
Shapes: N rows of the chunk, V vocabulary.
"""

import torch
from torch import Tensor

from fairseq_masking.methods.amos.gumbel_mixture.chunks import Noise, Sample
from fairseq_masking.ops.linear_cross_entropy.torch_rows import allocate, logits_

__all__ = ["add_gumbel_noise_", "allocate", "default_chunk_elements", "gradients_", "logits_", "sample_"]

_UNIFORM_BITS = 31  # the sign is left out
_LARGEST = 1 - 2**-24  # its difference to 1 is not 0 in fp32


def default_chunk_elements(hidden_KND: Tensor) -> int:
    """Return how many logits may be in flight: 8 MiB of fp32 on a CPU, 64 MiB on a GPU."""
    return 1 << (24 if hidden_KND.is_cuda else 21)


def sample_(sample: Sample, logits_NV: Tensor, bias_V: Tensor | None, noise: Noise, temperature: float) -> None:
    """Fill ``sample`` from logits that hold the bias already and are written over."""
    perturbed = _perturb_(logits_NV, noise)
    torch.max(perturbed, dim=1, out=(sample.highest_N, sample.tokens_N))
    torch.sum(_exponentials_(perturbed, sample.highest_N, temperature), dim=1, out=sample.total_N)


def gradients_(
    grad_NV: Tensor, logits_NV: Tensor, bias_V: Tensor | None, noise: Noise, temperature: float, sample: Sample
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


def add_gumbel_noise_(values_NV: Tensor, keys_N2: Tensor) -> Tensor:
    """Add standard Gumbel noise to ``values_NV``, fp32 or fp64, and return it."""
    num_columns = values_NV.shape[1]
    columns = torch.arange(num_columns, dtype=torch.int32, device=values_NV.device)
    # a few rows at once: what stays in a CPU's cache over the passes, what keeps a GPU busy
    size = max(1, (1 << (22 if values_NV.is_cuda else 17)) // num_columns)
    for values, keys in zip(values_NV.split(size), keys_N2.split(size), strict=True):
        first, second = keys[:, :1], keys[:, 1:]
        bits = _mix_(_mix_(columns ^ first).bitwise_xor_(second)).bitwise_and_(2**_UNIFORM_BITS - 1)
        # -u for u = (bits + 1/2) / 2^31; -log1p(-u) is an exponential variate, its logarithm a Gumbel one's
        minus_u = bits.to(values.dtype).mul_(-(2.0**-_UNIFORM_BITS)).sub_(2.0 ** -(_UNIFORM_BITS + 1))
        values.sub_(minus_u.clamp_(min=-_LARGEST).log1p_().neg_().log_())
    return values_NV


def _mix_(bits: Tensor) -> Tensor:
    """Apply lowbias32 to int32 ``bits``: one bit of the input flips half of the output's."""
    shifted = torch.empty_like(bits)
    for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, 1)):
        torch.bitwise_right_shift(bits, shift, out=shifted).bitwise_and_((1 << (32 - shift)) - 1)
        bits.bitwise_xor_(shifted)
        if multiplier != 1:
            bits.mul_(multiplier)
    return bits
