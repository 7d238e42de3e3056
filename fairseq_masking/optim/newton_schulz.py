"""Newton-Schulz iteration: what is nearly the closest orthogonal matrix, for many matrices at once.

A step maps every singular value s to a s + b s^3 + c s^5 and leaves the singular vectors alone; five of these
take all but the smallest to 0.7 .. 1.2. Coefficients and numbers are those of ``torch.optim.Muon``, which works
on one matrix at a time and in bf16 only.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
Shapes: K matrices, R rows, C columns.
"""

import torch
from torch import Tensor

__all__ = ["newton_schulz", "precision"]

_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-7
_OBLONG = 1.5  # longer over shorter side from which on five steps cost fewer operations on the Gram matrix


def newton_schulz(matrices_KRC: Tensor, num_steps: int) -> Tensor:
    """Return the orthogonalised matrices ``[K, R, C]``.

    What a step multiplies X with is a polynomial of X X^T, and so is the product of all steps: oblong matrices
    gather that on their shorter side and are multiplied with it once (56% of the operations at C = 4 R). Not so in
    half precision, where X X^T squares what is rounded away.
    """
    rows, columns = matrices_KRC.shape[1:]
    if max(rows, columns) < _OBLONG * min(rows, columns) or matrices_KRC.dtype.itemsize < 4:
        return _by_steps(matrices_KRC.mT, num_steps).mT if rows > columns else _by_steps(matrices_KRC, num_steps)
    x = matrices_KRC
    gram, product = torch.bmm(x.mT, x) if rows > columns else torch.bmm(x, x.mT), None
    norms = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].sqrt_().clamp_(min=_EPS)
    gram /= norms.square()
    for step in range(num_steps):
        factor = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        factor.diagonal(dim1=1, dim2=2).add_(_A)
        product = factor / norms if product is None else torch.bmm(factor, product)
        if step + 1 < num_steps:
            gram = torch.bmm(factor, torch.bmm(gram, factor))
    assert product is not None
    return torch.bmm(x, product) if rows > columns else torch.bmm(product, x)


def _by_steps(matrices_KRC: Tensor, num_steps: int) -> Tensor:
    """The same, R <= C, step by step on the matrices themselves."""
    norms = torch.linalg.vector_norm(matrices_KRC, dim=(1, 2), keepdim=True)
    x = matrices_KRC / norms.clamp(min=_EPS)
    for _ in range(num_steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x


def precision(parameter: Tensor) -> torch.dtype:
    """Return what the iteration runs in: bf16 where the device multiplies it, which is enough, else fp32.

    Emulated, bf16 takes 20 times as long as fp32 (5 steps of a matrix [128, 512] on an AVX2 CPU).
    """
    if parameter.dtype == torch.float64:
        return torch.float64
    if parameter.device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = parameter.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
