"""Multi-head attention: within a sequence, with one fused projection, and from one sequence to another.

Shapes: B batch, T length, S length of the other sequence, D width, H heads, C width of a head.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.modules.rotary import rotate
from fairseq_masking.ops import self_attention

__all__ = ["CrossAttention", "SelfAttention"]


class SelfAttention(nn.Module):
    """Bidirectional self-attention with dropout on its weights.

    ``in_proj`` holds query, key and value in this order, each ``[D, D]``, one below the other.
    """

    stacked: ClassVar[Mapping[str, int]] = {"in_proj": 3}  # matrices below one another, each its own for Muon

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        _check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)

    def forward(
        self, hidden_BTD: Tensor, attention_bias: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """Attend from every position to every position.

        Args:
            attention_bias: bool (True = may be attended to) or float (added to the logits), broadcastable
                to ``[B, H, T, T]``.
            rotation: of ``rotation_of``, by which queries and keys are turned.

        Returns:
            float ``[B, T, D]``.
        """
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
        _check_heads(embed_dim, num_heads)
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
        """Attend from every position of ``hidden_BTD`` to every position of ``memory_BSD``.

        Args:
            attention_bias: bool (True = may be attended to) or float (added to the logits), broadcastable
                to ``[B, H, T, S]``.
            rotations: of ``rotation_of``, by which the queries and the keys are turned.

        Returns:
            float ``[B, T, D]``.
        """
        head = hidden_BTD.shape[2] // self.num_heads
        query_BTHC = self.query_proj(hidden_BTD).unflatten(2, (self.num_heads, head))
        key_BSHC, value_BSHC = self.key_value_proj(memory_BSD).unflatten(2, (2, self.num_heads, head)).unbind(2)
        if rotations is not None:
            query_BTHC, key_BSHC = rotate(query_BTHC, rotations[0]), rotate(key_BSHC, rotations[1])
        query, key, value = (part.transpose(1, 2) for part in (query_BTHC, key_BSHC, value_BSHC))
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_bias, dropout_p=dropout)
        return self.out_proj(context.transpose(1, 2).flatten(2))


def _check_heads(embed_dim: int, num_heads: int) -> None:
    if embed_dim % num_heads:
        raise UserError(
            f"{num_heads} attention heads do not divide the width {embed_dim}: change one of them"
            " (--encoder-attention-heads, --encoder-embed-dim, or those of the part that has them)"
        )
