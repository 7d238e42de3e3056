"""How hard each position of a sequence is for a model: what MAP-Net's proposal is to be proportional to.

    loss           l_i = E[-log P(x_i | x^M) | i in M]
    gradient norm  sqrt(E[||grad of -log P(x_i | x^M)||**2 | i in M])

over uniform masks M of k positions that contain i (2008.05333, Section 3.3 replaces the second by the first;
Eq. 7-9). Masks are taken in rounds that cover every position, so all positions are measured equally often.
Shapes: T tokens of a sequence, n maskable, k masked positions, M masks, N = M * k.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fairseq_masking.measure.gradient_variance.gradients import Masks

__all__ = ["covering_masks", "gradient_norms_of_positions", "losses_of_positions", "mask_batch"]

_ROWS = 64  # of a batch

Floats = npt.NDArray[np.float64]


def covering_masks(
    maskable_n: npt.NDArray[np.int64],
    num_masked: int,
    mask_index: int,
    *,
    num_rounds: int,
    rng: np.random.Generator,
) -> Masks:
    """Draw uniform masks, all [MASK], that cover every position in each round.

    A round is a random order of the positions cut into masks; the last one is filled up from the beginning,
    so that each mask by itself is uniform over all masks of k positions.

    Args:
        maskable_n: columns.
        num_masked: k, at most n.

    Returns:
        ``num_rounds`` times ceil(n / k) masks.
    """
    num_masks = -(-len(maskable_n) // num_masked)
    rounds = [
        np.resize(rng.permutation(maskable_n), num_masks * num_masked).reshape(num_masks, num_masked)
        for _ in range(num_rounds)
    ]
    columns_Mk = np.concatenate(rounds)
    return Masks(columns_Mk, np.zeros(num_masked, dtype=np.int8), np.full_like(columns_Mk, mask_index))


def mask_batch(tokens_T: npt.NDArray[np.int64], masks: Masks, device: torch.device) -> dict[str, Any]:
    """Return design.md's ``net_input`` with one row for each mask of a sequence."""
    num_masks, num_masked = masks.columns_Mk.shape
    length = len(tokens_T)
    num_mask = num_masks * int((masks.kinds_k == 0).sum())
    flat_Mk = np.arange(num_masks)[:, None] * length + masks.columns_Mk
    return {
        "src_tokens": torch.from_numpy(np.tile(tokens_T, (num_masks, 1))).to(device),
        "src_lengths": torch.full((num_masks,), length, device=device),
        "positions": torch.from_numpy(flat_Mk.ravel()).to(device),
        "kinds": torch.from_numpy(np.tile(masks.kinds_k, num_masks)).to(device),
        "replacements": torch.from_numpy(masks.replacements_Mk.ravel()).to(device),
        "num_masked": torch.full((num_masks,), num_masked, device=device),
        "shape": {
            "rectangular": True,
            "max_masked": num_masked,
            "num_mask": num_mask,
            "max_visible": length - num_mask // num_masks,
            "has_padding": False,
            "noise_seed": 0,
        },
    }


@torch.no_grad()
def losses_of_positions(model: nn.Module, tokens_T: npt.NDArray[np.int64], masks: Masks) -> Floats:
    """Return the mean cross-entropy ``[T]`` (nats) of each position over the masks with it, NaN without."""
    model.eval()
    losses = [
        _losses(model, tokens_T, part).view(part.columns_Mk.shape).double().cpu().numpy()
        for part in _parts(masks, _ROWS)
    ]
    return _mean_by_column(masks.columns_Mk, np.concatenate(losses), len(tokens_T))


def gradient_norms_of_positions(
    model: nn.Module,
    tokens_T: npt.NDArray[np.int64],
    masks: Masks,
    parameters: Sequence[nn.Parameter],
) -> Floats:
    """Return the root mean square ``[T]`` of each position's gradient norm, NaN where no mask contains it."""
    model.eval()
    squares_Mk = np.empty(masks.columns_Mk.shape)
    for mask, part in enumerate(_parts(masks, 1)):
        losses_k = _losses(model, tokens_T, part)
        for place, loss in enumerate(losses_k):
            gradients = torch.autograd.grad(
                loss, parameters, allow_unused=True, retain_graph=place + 1 < len(losses_k)
            )
            norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients if g is not None]
            squares_Mk[mask, place] = float(torch.stack(norms).square().sum())
    return np.sqrt(_mean_by_column(masks.columns_Mk, squares_Mk, len(tokens_T)))


def _losses(model: nn.Module, tokens_T: npt.NDArray[np.int64], masks: Masks) -> Tensor:
    losses_N: Tensor = model(**mask_batch(tokens_T, masks, next(model.parameters()).device)).losses_N
    return losses_N


def _parts(masks: Masks, rows: int) -> list[Masks]:
    starts = range(0, len(masks), rows)
    return [
        Masks(masks.columns_Mk[i : i + rows], masks.kinds_k, masks.replacements_Mk[i : i + rows])
        for i in starts
    ]


def _mean_by_column(columns_Mk: npt.NDArray[np.int64], values_Mk: Floats, length: int) -> Floats:
    sums_T = np.bincount(columns_Mk.ravel(), values_Mk.ravel(), length)
    with np.errstate(invalid="ignore"):
        return sums_T / np.bincount(columns_Mk.ravel(), minlength=length)
