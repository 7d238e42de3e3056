"""The gradient g(m) of a model's loss on one mask of one fixed sequence, and inner products of many of them.

Every variance and covariance of the papers is a sum of inner products of gradients, so that an [M, M] matrix
replaces [M, P] and only a few gradients are held at a time.

Source: 2010.06040, Eq. 1 (the loss) and Section 3.2 (g(m) and its mean, Eq. 9).
Shapes: T tokens of a sequence, k masked positions (the paper's tau), M masks, P parameters. M masks of a
sequence are a ``MaskedItem``: ``columns`` and ``replacements`` [M, k], ``kinds`` [k].
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.data.batch import batch_input
from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskedItem, MaskingConfig, MaskingVocabulary
from fairseq_masking.measure import CORRUPTIONS
from fairseq_masking.measure.gradient_variance.draws import FixedSequence, Tokens
from fairseq_masking.measure.sequences import choose_sequences, load_blocks, sequence_length
from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
from fairseq_masking.models import MLMModel

__all__ = [
    "GramMatrix", "LossScale", "MaskGradient", "Measurement", "choose", "gram_matrix", "inner_products", "load",
    "mask_batch", "mask_losses", "mean_gradient", "select_parameters", "shown", "stack_gradients",
]  # fmt: skip

LossScale = Literal["mean", "sum"]
# Longest sum that is left to the gradients' own precision; the sums of such chunks are added in fp64.
_CHUNK = 1 << 16
shown = partial(tqdm, unit="sequence", disable=None)  # a bar of progress in a terminal


def mask_batch(tokens_T: Tokens, masks: MaskedItem, device: torch.device, rows: slice = slice(None)) -> dict[str, Any]:
    """Return design.md's ``net_input`` with one row for each of the masks ``rows`` of a sequence."""
    part = MaskedItem(masks.columns[rows], masks.kinds, masks.replacements[rows])
    return batch_input([tokens_T], [part], num_splits=len(part.columns), device=device)


def mask_losses(model: nn.Module, tokens_T: Tokens, masks: MaskedItem, rows: slice) -> Tensor:
    """Return the cross-entropies (nats) of all positions of some of the masks.

    The model takes a batch of design.md's contract and returns an output with ``losses_N``. It is put into eval mode:
    the masks are to be the only thing that varies.
    """
    losses_N: Tensor = model.eval()(**mask_batch(tokens_T, masks, next(model.parameters()).device, rows)).losses_N
    return losses_N


@dataclass
class MaskGradient:
    """Computes g(m) for masks of one sequence."""

    model: nn.Module  # see ``mask_losses``
    tokens_T: Tokens  # the clean sequence with its outer <s>, </s>
    masks: MaskedItem
    parameters: Sequence[nn.Parameter]  # those to differentiate by, from ``select_parameters``
    # ``mean``: the cross-entropies of the k positions summed and divided by k, what a training step of such rows
    # follows; ``sum``: Eq. 1 as it stands. All variances differ by k**2.
    scale: LossScale = "mean"

    def __call__(self, mask: int) -> Tensor:
        """Return the gradient ``[P]`` of mask number ``mask``; 0 for parameters the loss does not use."""
        losses_k = mask_losses(self.model, self.tokens_T, self.masks, slice(mask, mask + 1))
        loss = losses_k.mean() if self.scale == "mean" else losses_k.sum()
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True, allow_unused=True)
        return torch.cat([gradient.flatten() for gradient in gradients])


def mean_gradient(gradient: MaskGradient, masks: range) -> Tensor:
    """Return the mean gradient ``[P]`` over some of the masks, an unbiased estimate of Eq. 9."""
    return reduce(Tensor.add_, map(gradient, masks)) / len(masks)


def select_parameters(model: nn.Module, pattern: str | None = None) -> list[nn.Parameter]:
    """Return the parameters whose name the regular expression matches somewhere; None: all.

    The paper measures "selected parameters" and does not say which. Where none matches it is a ``UserError``.
    """
    named = dict(model.named_parameters())
    try:
        chosen = [parameter for name, parameter in named.items() if re.search(pattern or "", name)]
    except re.error as error:
        raise UserError(f"--parameters {pattern!r} is no regular expression: {error}") from None
    if not chosen:
        first, second, *_, last = named
        raise UserError(
            f"--parameters {pattern!r} matches none of the model's {len(named)} parameters; they are named"
            f" {first}, {second}, ..., {last}"
        )
    return chosen


@dataclass(frozen=True)
class Measurement:
    """What the measurements are made on."""

    model: nn.Module  # see ``mask_losses``
    parameters: Sequence[nn.Parameter]  # see ``select_parameters``
    config: MaskingConfig  # rate, unit, K, corruption and seed of the masks
    vocabulary: MaskingVocabulary  # specials and replacements
    scale: LossScale = "mean"  # see ``MaskGradient``
    memory: int = 2 << 30  # bytes for gradients; less costs time (``gram_matrix``)

    def sequence(self, index: int, tokens_T: Tokens) -> FixedSequence:
        return FixedSequence(tokens_T, index, self.config, self.vocabulary)

    def gradients(self, tokens_T: Tokens, masks: MaskedItem) -> MaskGradient:
        return MaskGradient(self.model, tokens_T, masks, self.parameters, self.scale)

    def rows_in_memory(self, num_kept: int) -> int:
        """Return how many gradients fit beside ``num_kept`` others; not even one is a ``UserError``."""
        row = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)
        rows = self.memory // row - num_kept
        if rows < 1:
            raise UserError(
                f"--memory {self.memory / 2**30:.3g} GiB holds {max(0, self.memory // row)} gradients of"
                f" {row / 2**30:.3g} GiB, but {num_kept + 1} are needed: raise it, take fewer --sequences,"
                " or choose some --parameters"
            )
        return rows


def load(args: argparse.Namespace, path: Path, **masking: Any) -> tuple[Any, Measurement]:
    """Return a checkpoint, and how it is measured, by the options of ``cli/measure_variance.py``."""
    hub: Any = MLMModel.from_pretrained(path, data=args.data)
    if args.of != "laws" and not issubclass(type(hub.model).output_class, MaskedTokenOutput):
        raise UserError(f"{path} is a {type(hub.model).__name__}: masks of a fixed law need mlm or three_ml")
    shares = CORRUPTIONS[args.corruption]
    config = MaskingConfig(mask_prob=args.mask_prob, seed=args.seed, **shares, **masking)
    vocabulary = masking_vocabulary(hub.dictionary, folder=args.data, need_words=config.unit != "subword")
    parameters = select_parameters(hub.model, args.parameters)
    return hub, Measurement(hub.model, parameters, config, vocabulary, args.loss, int(args.memory * 2**30))


def choose(
    args: argparse.Namespace, hub: Any, measurement: Measurement, *, more_than: int | None = None
) -> list[FixedSequence]:
    """Return sequences with more maskable tokens than that, or enough for their masks."""
    length = sequence_length(hub, args.tokens_per_sample)
    blocks = load_blocks(args.data, args.split, hub.dictionary, tokens_per_sample=length)

    def fits(tokens_T: Tokens) -> bool:
        sequence = measurement.sequence(0, tokens_T)
        return sequence.tau > 0 if more_than is None else len(sequence.columns_m) > more_than

    chosen = choose_sequences(blocks, args.sequences, fits, seed=args.seed, source=args.data / args.split)
    return [measurement.sequence(index, tokens_T) for index, tokens_T in chosen]


class GramMatrix(NamedTuple):
    """float64 ``inner_MM``, all inner products, and ``mean_P``, the mean of the gradients."""

    inner_MM: npt.NDArray[np.float64]
    mean_P: Tensor


def gram_matrix(gradient_of: Callable[[int], Tensor], num_gradients: int, rows_in_memory: int) -> GramMatrix:
    """Compute all inner products of gradients that are too large to hold together.

    Blocks of ``rows_in_memory`` gradients are held in turn, and for each block the later gradients are
    computed once more: with B blocks, (B + 1) / 2 times as many gradients as there are. One block is best.
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
    block = first.new_empty(len(numbers), first.numel())
    block[0] = first
    for row, number in enumerate(numbers[1:], 1):
        block[row] = gradient_of(number)
    return block


def inner_products(left: Tensor, right: Tensor) -> npt.NDArray[np.float64]:
    """Return float64 ``[L, R]``, the inner products of the rows of two matrices ``[L, P]`` and ``[R, P]``."""
    chunks = zip(left.split(_CHUNK, 1), right.split(_CHUNK, 1), strict=True)
    return sum((a @ b.t()).double() for a, b in chunks).cpu().numpy()
