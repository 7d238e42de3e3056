"""Relative position buckets and the attention bias that is learned over them.

Shapes: T length, B batch, H heads, O = 2T - 1 offsets, R buckets. ``offset = key position - query position``.
"""

import math

import torch
from torch import Tensor, nn

from fairseq_masking.errors import UserError

__all__ = ["BUCKETINGS", "RelativePositionBias", "amos_buckets", "bias_by_diagonals", "t5_buckets"]


def t5_buckets(offset: Tensor, *, num_buckets: int, max_distance: int, **_: int) -> Tensor:
    """Bidirectional T5 buckets, int64 in ``[0, num_buckets)``: one half for keys to the left, one for the right.

    Distances below a quarter of ``num_buckets`` have a bucket each, larger ones share logarithmically
    wider buckets up to ``max_distance``, beyond which all share the last.

    Source: Raffel et al. 2020 (T5), section 2.1.
    """
    half = num_buckets // 2
    exact = half // 2
    distance = offset.abs()
    scale = (half - exact) / math.log(max_distance / exact)
    # 1e-9: a distance on a bucket's edge must not fall below it by rounding
    far = exact + ((distance.clamp(min=1).double() / exact).log() * scale + 1e-9).long()
    within = torch.where(distance < exact, distance, far.clamp(max=half - 1))
    return within + half * (offset > 0)


def amos_buckets(offset: Tensor, *, num_buckets: int, max_distance: int, max_positions: int) -> Tensor:
    """Signed buckets of the released AMOS and COCO-LM checkpoints; as ``t5_buckets`` otherwise.

    ``max_positions`` is the side of the table whose smallest value becomes bucket 0.

    Source: spec/amos.md, "Positions" (behaviour of the released model code).
    """
    half = num_buckets // 2
    exact = half // 2

    def signed(value: Tensor) -> Tensor:
        distance = value.abs()
        growth = (distance.clamp(min=1).double() / exact).log() / math.log((max_distance - 1) / exact)
        far = exact + torch.ceil(growth * (half - 1 - exact)).long()
        within = torch.where(distance < exact, distance, far.clamp(max=half - 1))
        return within * value.sign()

    smallest = signed(torch.arange(-(max_positions - 1), 1)).min()
    return signed(offset) - smallest


BUCKETINGS = {"t5": t5_buckets, "amos": amos_buckets}


class RelativePositionBias(nn.Module):
    """A table ``[num_buckets, heads]`` that is added to the attention logits, shared by all layers.

    The buckets are computed once and never stored in a checkpoint.
    """

    buckets_O: Tensor  # of all offsets from 1 - max_positions to max_positions - 1

    def __init__(self, kind: str, *, num_heads: int, num_buckets: int, max_distance: int, max_positions: int) -> None:
        super().__init__()
        if kind not in BUCKETINGS:
            raise UserError(f"unknown relative position {kind!r}: choose none, {' or '.join(BUCKETINGS)}")
        if num_buckets < 8 or num_buckets % 2:
            raise UserError(f"--relative-position-buckets {num_buckets}: an even number from 8 on is needed")
        if max_distance <= num_buckets // 2:
            raise UserError(
                f"--relative-position-max-distance {max_distance}: must exceed half of the"
                f" {num_buckets} buckets ({num_buckets // 2})"
            )
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads).normal_(std=0.02))
        offsets = torch.arange(1 - max_positions, max_positions)
        sizes = {"num_buckets": num_buckets, "max_distance": max_distance, "max_positions": max_positions}
        self.register_buffer("buckets_O", BUCKETINGS[kind](offsets, **sizes), persistent=False)

    def forward(self, length: int, positions_BT: Tensor | None = None) -> Tensor:
        """Return the bias ``[1, H, T, T]``, or ``[B, H, T, T]`` for tokens at ``positions_BT``."""
        zero = len(self.buckets_O) // 2
        if positions_BT is not None:
            offset_BTT = positions_BT[:, None, :] - positions_BT[:, :, None]
            return self.weight[self.buckets_O[offset_BTT + zero]].permute(0, 3, 1, 2)
        buckets_O = self.buckets_O[zero + 1 - length : zero + length]
        if self.weight.device.type != "cpu" or torch.compiler.is_compiling():
            return bias_by_diagonals(self.weight, buckets_O)
        return self.weight[_square(buckets_O)[None]].permute(0, 3, 1, 2)


def bias_by_diagonals(weight_RH: Tensor, buckets_O: Tensor) -> Tensor:
    """Return ``[1, H, T, T]``, whose gradient is summed along each diagonal, then for each bucket.

    Look-ups of ``[T, T]`` buckets send it through an accumulating index_put, in which a single bucket has a third
    of all entries: GPUs do that one after the other. The product with zeros and ones is exact.
    """
    chosen_OR1 = (buckets_O[:, None] == torch.arange(len(weight_RH), device=buckets_O.device))[..., None]
    values_OH = (chosen_OR1 * weight_RH).sum(dim=1)
    return _square(values_OH.T)[None]


def _square(values_O: Tensor) -> Tensor:
    """Return ``[..., T, T]`` for ``[..., O]``: at query i and key j what stands at offset j - i."""
    return values_O.unfold(-1, (values_O.shape[-1] + 1) // 2, 1).flip(-2)
