"""The Gumbel mixture chunk by chunk: matrix products here, the row-wise part from PyTorch or Triton.

Forward computes the logits of some rows, reduces them to three numbers a row and goes on in the same memory.
Backward computes them again, and their noise, beside ``E G``, the gradient of the sample; the gradient of the
logits takes the place of the latter. That is four products of 2NVD FLOPs in two chunks of memory; the naive
form takes five, two of them with a matrix of zeros and ones.

Shapes: K hidden states, N rows, D width, V vocabulary.
"""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_masking.ops.linear_cross_entropy.chunks import row_parts

__all__ = ["Inputs", "Noise", "Sample", "backward", "forward"]


class Inputs(NamedTuple):
    """What the logits are a function of."""

    hidden_KND: Tensor
    weights_NK: Tensor
    embedding_VD: Tensor
    bias_V: Tensor | None

    def mixed(self, part: slice) -> Tensor:
        """Return the mixture of some rows' hidden states, ``[N, D]`` in their dtype."""
        weights = self.weights_NK[part].to(self.hidden_KND.dtype)
        return torch.einsum("nk,knd->nd", weights, self.hidden_KND[:, part])


class Noise(NamedTuple):
    """Gumbel noise: what it is drawn from, int32 ``[N, 2]``, or the noise itself."""

    keys_N2: Tensor
    given_NV: Tensor | None

    def rows(self, part: slice) -> "Noise":
        """Return the noise of some rows."""
        return Noise(self.keys_N2[part], None if self.given_NV is None else self.given_NV[part])


class Sample(NamedTuple):
    """What is kept of a row: the token, int64, and its soft sample's normaliser, fp32 (fp64 for fp64).

    With ``p`` a logit and its noise, ``highest_N`` is the token's and ``total_N`` sums
    ``exp((p - highest) / temperature)``.
    """

    tokens_N: Tensor
    highest_N: Tensor
    total_N: Tensor

    def rows(self, part: slice) -> "Sample":
        """Return views of some rows."""
        return Sample(*(tensor[part] for tensor in self))

    @staticmethod
    def empty(hidden_KND: Tensor) -> "Sample":
        """Return room for all rows."""
        dtype = torch.float64 if hidden_KND.dtype == torch.float64 else torch.float32
        highest = hidden_KND.new_empty(hidden_KND.shape[1], dtype=dtype)
        return Sample(torch.empty_like(highest, dtype=torch.int64), highest, torch.empty_like(highest))


def forward(rows: ModuleType, inputs: Inputs, noise: Noise, *, temperature: float, chunk_elements: int) -> Sample:
    """Sample a token for every row.

    Args:
        rows: the row-wise part, the module ``torch_rows`` or ``triton_rows``.
        chunk_elements: logits in flight at once.
    """
    hidden_KND, _, embedding_VD, bias_V = inputs
    num_columns = embedding_VD.shape[0]
    embedding = embedding_VD.to(hidden_KND.dtype)
    sample = Sample.empty(hidden_KND)
    parts = list(row_parts(hidden_KND.shape[1], num_columns, chunk_elements))
    buffer = rows.allocate(hidden_KND, parts[0].stop if parts else 0, num_columns)
    for part in parts:
        logits = buffer[: part.stop - part.start, :num_columns]
        rows.logits_(logits, inputs.mixed(part), embedding, bias_V)
        rows.sample_(sample.rows(part), logits, bias_V, noise.rows(part), temperature)
    return sample


def backward(
    rows: ModuleType,
    inputs: Inputs,
    noise: Noise,
    sample: Sample,
    grad_embedded_ND: Tensor,
    *,
    temperature: float,
    scale: float,
    hidden_scale: float,
    chunk_elements: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of hidden and weights through the soft sample; None where not ``wanted``."""
    hidden_KND, weights_NK, embedding_VD, bias_V = inputs
    num_rows, num_columns = hidden_KND.shape[1], embedding_VD.shape[0]
    embedding = embedding_VD.to(hidden_KND.dtype)
    grad_embedded = grad_embedded_ND.to(hidden_KND.dtype)
    grad_hidden = torch.zeros_like(hidden_KND) if wanted[0] else None
    grad_weights = torch.zeros_like(weights_NK) if wanted[1] else None
    parts = list(row_parts(num_rows, num_columns, chunk_elements)) if scale else []
    buffers = [rows.allocate(hidden_KND, parts[0].stop if parts else 0, num_columns) for _ in range(2)]
    for part in parts:
        logits, grad_logits = (buffer[: part.stop - part.start, :num_columns] for buffer in buffers)
        rows.logits_(logits, inputs.mixed(part), embedding, bias_V)
        rows.logits_(grad_logits, grad_embedded[part], embedding, None)  # the sample's gradient, E G
        rows.gradients_(grad_logits, logits, bias_V, noise.rows(part), temperature, sample.rows(part))
        grad_mixed = (grad_logits.to(hidden_KND.dtype) @ embedding).to(sample.total_N.dtype)
        grad_mixed *= scale / temperature
        if grad_weights is not None:
            hidden = hidden_KND[:, part].to(grad_mixed.dtype)
            grad_weights[part] = torch.einsum("knd,nd->nk", hidden, grad_mixed)
        if grad_hidden is not None:
            weights = hidden_scale * weights_NK[part].to(grad_mixed.dtype)
            grad_hidden[:, part] = torch.einsum("nk,nd->knd", weights, grad_mixed)
    return grad_hidden, grad_weights
