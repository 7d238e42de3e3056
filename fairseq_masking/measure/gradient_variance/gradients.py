"""The gradient g(m) of a model's loss on one mask of one fixed sequence, as a flat vector.

Source: 2010.06040, Eq. 1 (the loss) and Section 3.2 (g(m) and its mean, Eq. 9).
Shapes: T tokens of a sequence, k masked positions (the paper's tau), M masks, P parameters.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fairseq_masking.errors import UserError

__all__ = ["LossScale", "MaskGradient", "Masks", "mean_gradient", "select_parameters"]

LossScale = Literal["mean", "sum"]


class Masks(NamedTuple):
    """M masks of a sequence: int64 ``columns_Mk``, int8 ``kinds_k`` (0 [MASK]), int64 ``replacements_Mk``."""

    columns_Mk: npt.NDArray[np.int64]
    kinds_k: npt.NDArray[np.int8]
    replacements_Mk: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """M."""
        return self.columns_Mk.shape[0]


class MaskGradient:
    """Computes g(m) for masks of one sequence, dropout off.

    Args:
        model: takes a batch of design.md's contract and returns an output with ``losses_N``. It is put into
            eval mode: the masks are to be the only thing that varies.
        tokens_T: the clean sequence with its outer <s>, </s>.
        masks: its masks.
        parameters: those to differentiate by, from ``select_parameters``.
        scale: ``mean``: the cross-entropies of the k positions summed and divided by k, what a training step
            of such rows follows; ``sum``: Eq. 1 as it stands. All variances differ by k**2.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens_T: npt.NDArray[np.int64],
        masks: Masks,
        parameters: Sequence[nn.Parameter],
        *,
        scale: LossScale = "mean",
    ) -> None:
        self.model = model.eval()
        self.masks = masks
        self.parameters = list(parameters)
        self.scale = scale
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters)
        device = self.parameters[0].device
        self._tokens = torch.from_numpy(np.ascontiguousarray(tokens_T)).to(device)[None]
        self._lengths = torch.tensor([len(tokens_T)], device=device)

    def __len__(self) -> int:
        """M."""
        return len(self.masks)

    def __call__(self, mask: int) -> Tensor:
        """Return the gradient ``[P]`` of mask number ``mask``; 0 for parameters the loss does not use."""
        device = self._tokens.device
        kinds = self.masks.kinds_k
        k, num_mask = len(kinds), int((kinds == 0).sum())
        output = self.model(
            src_tokens=self._tokens,
            src_lengths=self._lengths,
            positions=torch.from_numpy(self.masks.columns_Mk[mask]).to(
                device
            ),  # one row: columns are positions
            kinds=torch.from_numpy(kinds.copy()).to(device),
            replacements=torch.from_numpy(self.masks.replacements_Mk[mask]).to(device),
            num_masked=torch.tensor([k], device=device),
            shape={
                "rectangular": True,
                "max_masked": k,
                "num_mask": num_mask,
                "max_visible": self._tokens.shape[1] - num_mask,
                "has_padding": False,
                "noise_seed": 0,
            },
        )
        loss = output.losses_N.sum()
        if self.scale == "mean":
            loss = loss / k
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
                for parameter, gradient in zip(self.parameters, gradients, strict=True)
            ]
        )


def mean_gradient(gradient: MaskGradient, masks: range | None = None) -> Tensor:
    """Return the mean gradient ``[P]`` over (some of) the masks, an unbiased estimate of Eq. 9."""
    masks = range(len(gradient)) if masks is None else masks
    total = gradient(masks[0])
    for mask in masks[1:]:
        total += gradient(mask)
    return total / len(masks)


def select_parameters(model: nn.Module, pattern: str | None = None) -> list[nn.Parameter]:
    """Return the parameters whose name the regular expression matches somewhere; None: all.

    The paper measures "selected parameters" and does not say which.

    Raises:
        UserError: no regular expression, or no parameter matches.
    """
    names = [name for name, _ in model.named_parameters()]
    try:
        chosen = re.compile(pattern or "")
    except re.error as error:
        raise UserError(f"--parameters {pattern!r} is no regular expression: {error}") from None
    parameters = [parameter for name, parameter in model.named_parameters() if chosen.search(name)]
    if not parameters:
        raise UserError(
            f"--parameters {pattern!r} matches none of the model's {len(names)} parameters; they are named"
            f" {', '.join(names[:2])}, ..., {names[-1]}"
        )
    return parameters
