"""Rotary positions: queries and keys are turned by angles that grow with their places.

A product of a query and a key then depends on how far apart they are. The two halves of a head are the two
coordinates of its C/2 planes, as in Hugging Face's models.
Source: Su et al. 2021 (2104.09864), Section 3.4.
Shapes: B batch (1 where all rows have the same places), T length, H heads, C width of a head; 2 stands for
cosine and sine.
"""

import torch
from torch import Tensor

from fairseq_masking.errors import UserError

__all__ = ["rotate", "rotation_of"]


def rotation_of(places_BT: Tensor, width: int, theta: float, dtype: torch.dtype) -> Tensor:
    """Return cosines and sines ``[2, B, T, 1, C/2]`` of the angles ``place * theta^(-2i/C)``.

    The angles are fp32 at least, whatever the model's precision is: a place of some hundreds is no bf16.

    Raises:
        UserError: ``width`` is odd.
    """
    if width % 2:
        raise UserError(f"rotary positions turn pairs: heads {width} wide are odd, change --encoder-attention-heads")
    precise = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, width, 2, dtype=precise, device=places_BT.device) / width
    angles_BTC = places_BT[..., None].to(precise) / theta**exponents
    return torch.stack([angles_BTC.cos(), angles_BTC.sin()]).to(dtype)[:, :, :, None]


def rotate(vectors_BTHC: Tensor, rotation: Tensor) -> Tensor:
    """Turn vectors ``[B, T, ..., H, C]`` by what ``rotation_of`` returned."""
    rotation = rotation.to(vectors_BTHC.dtype)  # under autocast they differ
    while rotation.dim() <= vectors_BTHC.dim():
        rotation = rotation.unsqueeze(3)
    cosine, sine = rotation.unbind(0)
    first, second = vectors_BTHC.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
