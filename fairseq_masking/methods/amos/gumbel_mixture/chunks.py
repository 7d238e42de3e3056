"""The Gumbel mixture chunk by chunk, joined to autograd: two custom operators, each one node of a compiled graph.

Matrix products are computed here, the row-wise part in PyTorch or Triton. Forward computes the logits of some rows,
reduces them to three numbers a row and goes on in the same memory. Backward computes them again, and their noise,
beside ``E G``, the gradient of the sample; the gradient of the logits takes the place of the latter. That is four
products of 2NVD FLOPs in two chunks of memory; the naive form takes five, two of them with a matrix of zeros and ones.

The embedding's own gradient, that of its sampled rows, is a plain operation of PyTorch.

Shapes: K hidden states, N rows, D width, V vocabulary.
"""

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from fairseq_masking.ops.dispatch import plan
from fairseq_masking.ops.linear_cross_entropy.chunks import row_parts

__all__ = ["Noise", "Sample", "backward", "forward", "row_keys"]


class Noise(NamedTuple):
    """Gumbel noise: what it is drawn from, int32 ``[N, 2]``, or the noise itself."""

    keys_N2: Tensor
    given_NV: Tensor | None

    def rows(self, part: slice) -> "Noise":
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
        return Sample(*(tensor[part] for tensor in self))

    @staticmethod
    def empty(hidden_KND: Tensor) -> "Sample":
        """Return room for all rows."""
        dtype = torch.float64 if hidden_KND.dtype == torch.float64 else torch.float32
        highest = hidden_KND.new_empty(hidden_KND.shape[1], dtype=dtype)
        return Sample(torch.empty_like(highest, dtype=torch.int64), highest, torch.empty_like(highest))


def row_keys(seed: Tensor, num_rows: int, device: torch.device) -> Tensor:
    """Return int32 ``[N, 2]``, two keys for each row, of which its noise is a pure function.

    So nothing is kept, any part can be drawn again; the device, the number of rows and how they are cut into
    chunks do not matter.

    Args:
        seed: int64 without dimensions, on ``device`` or the CPU.

    Source: Steele et al. 2014, "Fast splittable pseudorandom number generators" (splitmix64).
    """
    state = (torch.arange(num_rows, device=device) + 1) * (0x9E3779B97F4A7C15 - 2**64) + seed
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1)):
        shifted = (state >> shift) & ((1 << (64 - shift)) - 1)  # zeros come in
        state = (state ^ shifted) * multiplier
    return state.view(torch.int32).view(num_rows, 2)


def _mixed(hidden_KND: Tensor, weights_NK: Tensor, part: slice) -> Tensor:
    """Return the mixture of some rows' hidden states, ``[N, D]`` in their dtype."""
    return torch.einsum("nk,knd->nd", weights_NK[part].to(hidden_KND.dtype), hidden_KND[:, part])


@torch.library.custom_op("fairseq_masking::gumbel_mixture", mutates_args=())
def forward(
    hidden_KND: Tensor,
    weights_NK: Tensor,
    embedding_VD: Tensor,
    bias_V: Optional[Tensor],
    seed: Tensor,
    noise_NV: Optional[Tensor],
    temperature: float,
    scale: float,
    hidden_scale: float,
    chunk_elements: Optional[int],
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the embedded tokens, and the ``Sample``."""
    rows, chunk_elements = plan(__package__, hidden_KND, chunk_elements, impl)
    num_rows, num_columns = weights_NK.shape[0], embedding_VD.shape[0]
    noise = Noise(row_keys(seed, num_rows, weights_NK.device), noise_NV)
    embedding = embedding_VD.to(hidden_KND.dtype)
    sample = Sample.empty(hidden_KND)
    parts = list(row_parts(num_rows, num_columns, chunk_elements))
    buffer = rows.allocate(hidden_KND, parts[0].stop if parts else 0, num_columns)
    for part in parts:
        logits = buffer[: part.stop - part.start, :num_columns]
        rows.logits_(logits, _mixed(hidden_KND, weights_NK, part), embedding, bias_V)
        rows.sample_(sample.rows(part), logits, bias_V, noise.rows(part), temperature)
    return embedding_VD.index_select(0, sample.tokens_N), *sample


@forward.register_fake
def _(hidden_KND: Tensor, weights_NK: Tensor, embedding_VD: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return embedding_VD.new_empty(hidden_KND.shape[1:]), *Sample.empty(hidden_KND)


@torch.library.custom_op("fairseq_masking::gumbel_mixture_backward", mutates_args=())
def backward(
    grad_embedded_ND: Tensor,
    hidden_KND: Tensor,
    weights_NK: Tensor,
    embedding_VD: Tensor,
    bias_V: Optional[Tensor],
    seed: Tensor,
    noise_NV: Optional[Tensor],
    tokens_N: Tensor,
    highest_N: Tensor,
    total_N: Tensor,
    temperature: float,
    scale: float,
    hidden_scale: float,
    chunk_elements: Optional[int],
    impl: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of hidden and weights through the soft sample, empty tensors where not ``wanted``."""
    rows, chunk_elements = plan(__package__, hidden_KND, chunk_elements, impl)
    num_rows, num_columns = weights_NK.shape[0], embedding_VD.shape[0]
    noise = Noise(row_keys(seed, num_rows, weights_NK.device), noise_NV)
    sample = Sample(tokens_N, highest_N, total_N)
    embedding = embedding_VD.to(hidden_KND.dtype)
    grad_embedded = grad_embedded_ND.to(hidden_KND.dtype)
    grad_hidden, grad_weights = (
        torch.zeros_like(like) if want else hidden_KND.new_empty(0)
        for like, want in zip((hidden_KND, weights_NK), wanted, strict=True)
    )
    parts = list(row_parts(num_rows, num_columns, chunk_elements)) if scale else []
    buffers = [rows.allocate(hidden_KND, parts[0].stop if parts else 0, num_columns) for _ in range(2)]
    for part in parts:
        logits, grad_logits = (buffer[: part.stop - part.start, :num_columns] for buffer in buffers)
        rows.logits_(logits, _mixed(hidden_KND, weights_NK, part), embedding, bias_V)
        rows.logits_(grad_logits, grad_embedded[part], embedding, None)  # the sample's gradient, E G
        rows.gradients_(grad_logits, logits, bias_V, noise.rows(part), temperature, sample.rows(part))
        grad_mixed = (grad_logits.to(hidden_KND.dtype) @ embedding).to(total_N.dtype)
        grad_mixed *= scale / temperature
        if wanted[1]:
            grad_weights[part] = torch.einsum("knd,nd->nk", hidden_KND[:, part].to(grad_mixed.dtype), grad_mixed)
        if wanted[0]:
            weights = hidden_scale * weights_NK[part].to(grad_mixed.dtype)
            grad_hidden[:, part] = torch.einsum("nk,nd->knd", weights, grad_mixed)
    return grad_hidden, grad_weights


@backward.register_fake
def _(grad_embedded_ND: Tensor, hidden_KND: Tensor, weights_NK: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    hidden, weights = (
        torch.empty_like(like) if want else hidden_KND.new_empty(0)
        for like, want in zip((hidden_KND, weights_NK), rest[-1], strict=True)
    )
    return hidden, weights


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, ctx.settings = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_embedded_ND: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    hidden, weights, embedding = None, None, None
    if grad_embedded_ND is not None:
        _, _, embedding_VD, *_, tokens, _, _ = tensors = ctx.saved_tensors
        _, _, hidden_scale, *_ = ctx.settings
        wanted = [ctx.needs_input_grad[0] and hidden_scale != 0, ctx.needs_input_grad[1]]
        if ctx.needs_input_grad[2]:
            embedding = torch.ops.aten.embedding_dense_backward(
                grad_embedded_ND, tokens, embedding_VD.shape[0], -1, False
            )
        if any(wanted):
            gradients = backward(grad_embedded_ND, *tensors, *ctx.settings, wanted)
            hidden, weights = (grad if want else None for grad, want in zip(gradients, wanted, strict=True))
    return hidden, weights, embedding, *([None] * 8)


forward.register_autograd(_differentiate, setup_context=_save_for_backward)
