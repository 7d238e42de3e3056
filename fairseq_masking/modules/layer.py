"""A Transformer layer.

Shapes: B batch, T length, D width.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from fairseq_masking.modules.attention import SelfAttention
from fairseq_masking.modules.config import ACTIVATIONS, FEED_FORWARDS, EncoderConfig
from fairseq_masking.ops import dropout

__all__ = ["TransformerLayer"]


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with dropout and a residual, post-LN or pre-LN."""

    def __init__(self, config: EncoderConfig, number: int = 0) -> None:
        super().__init__()
        # ``number`` is from 0 on
        self.is_local = config.attention_window > 0 and number % config.global_attention_every > 0
        self.feed_forward = config.feed_forward
        self.normalize_before = config.normalize_before
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.activation = ACTIVATIONS[config.activation]
        self.self_attn = SelfAttention(
            config.embed_dim, config.num_heads, dropout=config.attention_dropout, bias=not config.no_attention_bias
        )
        skips_norm = config.skip_first_norm and number == 0
        self.self_attn_layer_norm = nn.Identity() if skips_norm else config.build_norm()
        linear = partial(nn.Linear, bias=not config.no_feed_forward_bias)
        self.fc1 = linear(config.embed_dim, FEED_FORWARDS[config.feed_forward] * config.ffn_dim)
        self.fc2 = linear(config.ffn_dim, config.embed_dim)
        self.stacked = {"fc1": FEED_FORWARDS[config.feed_forward]}  # as in SelfAttention
        self.final_layer_norm = config.build_norm()

    def forward(
        self, hidden_BTD: Tensor, attention_bias: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """Return float ``[B, T, D]``; ``attention_bias`` and ``rotation`` as in ``SelfAttention``."""
        hidden_BTD = self.residual(
            hidden_BTD, self.self_attn_layer_norm, lambda hidden: self.self_attn(hidden, attention_bias, rotation)
        )
        return self.residual(hidden_BTD, self.final_layer_norm, self._feed_forward)

    def residual(self, hidden_BTD: Tensor, norm: nn.Module, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the residual connection around ``compute``, with dropout, and its norm before or behind it."""
        if self.normalize_before:
            return hidden_BTD + dropout(compute(norm(hidden_BTD)), self.dropout, self.training)
        return norm(hidden_BTD + dropout(compute(hidden_BTD), self.dropout, self.training))

    def _feed_forward(self, hidden_BTD: Tensor) -> Tensor:
        inner = self.fc1(hidden_BTD)
        if self.feed_forward == "glu":  # GeGLU where the activation is GELU: Shazeer 2020 (2002.05202), Eq. 6
            value, gate = inner.chunk(2, dim=-1)
            inner = self.activation(value) * gate
        else:
            inner = self.activation(inner)
        return self.fc2(dropout(inner, self.activation_dropout, self.training))
