"""The gradient g(m) of a model's loss on one mask of one fixed sequence, and inner products of many of them.

Every variance and covariance of the papers is a sum of inner products of gradients, so that an [M, M] matrix
replaces [M, P] and only a few gradients are held at a time.

Source: 2010.06040, Eq. 1 (the loss) and Section 3.2 (g(m) and its mean, Eq. 9).
Shapes: T tokens of a sequence, k masked positions (the paper's tau), M masks, P parameters. M masks of a
sequence are a ``MaskedItem``: ``columns`` and ``replacements`` [M, k], ``kinds`` [k].
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fairseq_masking.data.batch import batch_input
from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskedItem

__all__ = [
    "GramMatrix", "LossScale", "MaskGradient", "gram_matrix", "inner_products", "mask_batch", "mean_gradient",
    "select_parameters", "stack_gradients",
]  # fmt: skip

LossScale = Literal["mean", "sum"]
# Longest sum that is left to the gradients' own precision; the sums of such chunks are added in fp64.
_CHUNK = 1 << 16


def mask_batch(
    tokens_T: npt.NDArray[np.int64], masks: MaskedItem, device: torch.device, rows: slice = slice(None)
) -> dict[str, Any]:
    """Return design.md's ``net_input`` with one row for each of the masks ``rows`` of a sequence."""
    part = MaskedItem(masks.columns[rows], masks.kinds, masks.replacements[rows])
    return batch_input([tokens_T], [part], num_splits=len(part.columns), device=device)


@dataclass
class MaskGradient:
    """Computes g(m) for masks of one sequence, dropout off."""

    # takes a batch of design.md's contract and returns an output with ``losses_N``. It is put into eval mode: the
    # masks are to be the only thing that varies.
    model: nn.Module
    tokens_T: npt.NDArray[np.int64]  # the clean sequence with its outer <s>, </s>
    masks: MaskedItem  # its masks
    parameters: Sequence[nn.Parameter]  # those to differentiate by, from ``select_parameters``
    # ``mean``: the cross-entropies of the k positions summed and divided by k, what a training step of such rows
    # follows; ``sum``: Eq. 1 as it stands. All variances differ by k**2.
    scale: LossScale = "mean"

    def __len__(self) -> int:
        """M."""
        return len(self.masks.columns)

    def __call__(self, mask: int) -> Tensor:
        """Return the gradient ``[P]`` of mask number ``mask``; 0 for parameters the loss does not use."""
        device = self.parameters[0].device
        batch = mask_batch(self.tokens_T, self.masks, device, slice(mask, mask + 1))
        loss = self.model.eval()(**batch).losses_N.sum()
        if self.scale == "mean":
            loss = loss / len(self.masks.kinds)
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True, allow_unused=True)
        return torch.cat([gradient.flatten() for gradient in gradients])


def mean_gradient(gradient: MaskGradient, masks: range | None = None) -> Tensor:
    """Return the mean gradient ``[P]`` over (some of) the masks, an unbiased estimate of Eq. 9."""
    masks = range(len(gradient)) if masks is None else masks
    return reduce(Tensor.add_, map(gradient, masks)) / len(masks)


def select_parameters(model: nn.Module, pattern: str | None = None) -> list[nn.Parameter]:
    """Return the parameters whose name the regular expression matches somewhere; None: all.

    The paper measures "selected parameters" and does not say which.

    Raises:
        UserError: no regular expression, or no parameter matches.
    """
    named = dict(model.named_parameters())
    try:
        chosen = [parameter for name, parameter in named.items() if re.search(pattern or "", name)]
    except re.error as error:
        raise UserError(f"--parameters {pattern!r} is no regular expression: {error}") from None
    if not chosen:
        names = list(named)
        raise UserError(
            f"--parameters {pattern!r} matches none of the model's {len(names)} parameters; they are named"
            f" {', '.join(names[:2])}, ..., {names[-1]}"
        )
    return chosen


class GramMatrix(NamedTuple):
    """float64 ``inner_MM``, all inner products, and ``mean_P``, the mean of the gradients."""

    inner_MM: npt.NDArray[np.float64]
    mean_P: Tensor


def gram_matrix(gradient_of: Callable[[int], Tensor], num_gradients: int, rows_in_memory: int) -> GramMatrix:
    """Compute all inner products of gradients that are too large to hold together.

    Blocks of ``rows_in_memory`` gradients are held in turn, and for each block the later gradients are
    computed once more: with B blocks, (B + 1) / 2 times as many gradients as there are. One block is best.

    Args:
        gradient_of: gives gradient number i, ``[P]``, the same each time.
        num_gradients: M.
        rows_in_memory: gradients to hold at once, at least 1.
    """
    inner, total = np.zeros((num_gradients, num_gradients)), torch.tensor(0.0)
    for start in range(0, num_gradients, rows_in_memory):
        stop = min(start + rows_in_memory, num_gradients)
        block = stack_gradients(gradient_of, range(start, stop))
        inner[start:stop, start:stop] = inner_products(block, block)
        total = total.to(block) + block.sum(0)
        for later in range(stop, num_gradients):
            products = inner_products(block, gradient_of(later)[None])[:, 0]
            inner[start:stop, later] = inner[later, start:stop] = products
    return GramMatrix(inner, total / num_gradients)


def stack_gradients(gradient_of: Callable[[int], Tensor], numbers: range) -> Tensor:
    """Return those gradients as rows, written one by one: a list of them would need the memory twice."""
    first = gradient_of(numbers[0])
    block = torch.empty(len(numbers), first.numel(), dtype=first.dtype, device=first.device)
    block[0] = first
    for row, number in enumerate(numbers[1:], 1):
        block[row] = gradient_of(number)
    return block


def inner_products(left: Tensor, right: Tensor) -> npt.NDArray[np.float64]:
    """Return float64 ``[L, R]``, the inner products of the rows of two matrices ``[L, P]`` and ``[R, P]``."""
    chunks = zip(left.split(_CHUNK, 1), right.split(_CHUNK, 1), strict=True)
    return sum((a @ b.t()).double() for a, b in chunks).cpu().numpy()
