"""Multi-head self-attention with one fused projection for queries, keys and values.

Shapes: B batch, T length, D width, H heads.
"""

from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.ops import self_attention

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """Bidirectional self-attention with dropout on its weights.

    ``in_proj`` holds query, key and value in this order, each ``[D, D]``, one below the other.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise UserError(
                f"{num_heads} attention heads do not divide the width {embed_dim}: change one of them"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, hidden_BTD: Tensor, attention_bias: Tensor | None = None) -> Tensor:
        """Attend from every position to every position.

        Args:
            attention_bias: bool (True = may be attended to) or float (added to the logits), broadcastable
                to ``[B, H, T, T]``.

        Returns:
            float ``[B, T, D]``.
        """
        batch, length, width = hidden_BTD.shape
        projected = self.in_proj(hidden_BTD).view(batch, length, 3, self.num_heads, width // self.num_heads)
        return self.out_proj(
            self_attention(projected, attention_bias, self.dropout if self.training else 0.0)
        )
