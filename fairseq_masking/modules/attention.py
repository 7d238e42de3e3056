"""Multi-head attention: within a sequence, with one fused projection, and from one sequence to another.

With rotary positions queries and keys are turned by angles that grow with their places, so that their product
depends on how far apart they are. The two halves of a head are the two coordinates of its C/2 planes, as in Hugging
Face's models. Source: Su et al. 2021 (2104.09864), Section 3.4.

An attention bias is bool (True = may be attended to) or float (added to the logits), broadcastable to ``[B, H, T, T]``
or ``[B, H, T, S]``.
Shapes: B batch (1 where all rows have the same places), T length, S length of the other sequence, D width, H heads,
C width of a head; 2 stands for cosine and sine.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.ops import self_attention

__all__ = ["CrossAttention", "SelfAttention", "rotate", "rotation_of"]


class SelfAttention(nn.Module):
    """Bidirectional self-attention with dropout on its weights.

    ``in_proj`` holds query, key and value in this order, each ``[D, D]``, one below the other.
    """

    stacked: ClassVar[Mapping[str, int]] = {"in_proj": 3}  # matrices below one another, each its own for Muon

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)

    def forward(
        self, hidden_BTD: Tensor, attention_bias: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """Return float ``[B, T, D]``; queries and keys are turned by ``rotation``, of ``rotation_of``."""
        batch, length, width = hidden_BTD.shape
        projected = self.in_proj(hidden_BTD).view(batch, length, 3, self.num_heads, width // self.num_heads)
        if rotation is not None:
            query_key, value = projected.split((2, 1), dim=2)
            projected = torch.cat([rotate(query_key, rotation), value], dim=2)
        return self.out_proj(self_attention(projected, attention_bias, self.dropout if self.training else 0.0))


class CrossAttention(nn.Module):
    """Attention from one sequence to another of the same width, with dropout on its weights.

    ``key_value_proj`` holds key and value in this order, each ``[D, D]``, one below the other.
    """

    stacked: ClassVar[Mapping[str, int]] = {"key_value_proj": 2}

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.key_value_proj = nn.Linear(embed_dim, 2 * embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)

    def forward(
        self,
        hidden_BTD: Tensor,
        memory_BSD: Tensor,
        attention_bias: Tensor | None = None,
        rotations: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return float ``[B, T, D]``; ``rotations`` turn the queries and the keys."""
        head = hidden_BTD.shape[2] // self.num_heads
        query_BTHC = self.query_proj(hidden_BTD).unflatten(2, (self.num_heads, head))
        key_BSHC, value_BSHC = self.key_value_proj(memory_BSD).unflatten(2, (2, self.num_heads, head)).unbind(2)
        if rotations is not None:
            query_BTHC, key_BSHC = rotate(query_BTHC, rotations[0]), rotate(key_BSHC, rotations[1])
        query, key, value = (part.transpose(1, 2) for part in (query_BTHC, key_BSHC, value_BSHC))
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_bias, dropout_p=dropout)
        return self.out_proj(context.transpose(1, 2).flatten(2))


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
