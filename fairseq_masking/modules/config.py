"""What an encoder is: shape, kind of layers, regularisation."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_masking.errors import UserError

__all__ = [
    "ACTIVATIONS", "FEED_FORWARDS", "KIND_OPTIONS", "NORMS", "POSITION_ENCODINGS", "EncoderConfig", "EncoderKind",
]  # fmt: skip

POSITION_ENCODINGS = ("learned", "rotary")
NORMS = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}
# How many times the inner width the first projection of a feed-forward layer has.
FEED_FORWARDS = {"mlp": 1, "glu": 2}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": F.tanh}
_CHOICES = {
    "position_encoding": POSITION_ENCODINGS, "norm": NORMS, "feed_forward": FEED_FORWARDS, "activation": ACTIVATIONS,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EncoderKind:
    """What tells encoders of today from BERT's, whose kind is the default; names and meanings are the options'."""

    position_encoding: str = "learned"
    rope_theta: float = 10_000.0
    rope_local_theta: float = 10_000.0
    norm: str = "layer_norm"
    skip_first_norm: bool = False
    feed_forward: str = "mlp"
    no_attention_bias: bool = False
    no_feed_forward_bias: bool = False
    no_norm_bias: bool = False
    no_head_bias: bool = False
    attention_window: int = 0
    global_attention_every: int = 3


KIND_OPTIONS = tuple(option.name for option in fields(EncoderKind))


@dataclass(frozen=True)
class EncoderConfig(EncoderKind):
    """Shape and regularisation of a Transformer encoder."""

    vocab_size: int
    pad_index: int
    num_layers: int
    embed_dim: int
    ffn_dim: int
    num_heads: int
    max_positions: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    activation: str = "gelu"
    layer_norm_eps: float = 1e-5
    normalize_before: bool = False
    relative_position: str = "none"
    relative_position_buckets: int = 32
    relative_position_max_distance: int = 128
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise UserError(f"unknown {name.replace('_', ' ')} {value!r}: choose {' or '.join(allowed)}")
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"{self.num_heads} attention heads do not divide the width {self.embed_dim}: change one of them"
                " (--encoder-attention-heads, --encoder-embed-dim, or those of the part that has them)"
            )
        if self.attention_window < 0 or self.global_attention_every < 1:
            raise UserError(
                f"--attention-window {self.attention_window} --global-attention-every"
                f" {self.global_attention_every}: a window from 0 (none) on, every first layer or more"
            )
        if self.skip_first_norm and not self.normalize_before:
            raise UserError("--skip-first-norm is for pre-LN layers: add --normalize-before, or leave it out")

    def build_norm(self, eps: float | None = None, width: int | None = None) -> nn.LayerNorm | nn.RMSNorm:
        """Return a norm of this encoder's kind, eps and width unless others are given; RMSNorm has no bias anyway."""
        bias = {} if self.norm == "rms_norm" else {"bias": not self.no_norm_bias}
        return NORMS[self.norm](width or self.embed_dim, self.layer_norm_eps if eps is None else eps, **bias)
