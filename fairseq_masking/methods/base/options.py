"""Options every model has: the encoder's shape and regularisation. Sizes are filled in by ``architectures``.

Types are spelt ``Optional[int]``: fairseq's option parser does not read ``int | None``.
"""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from fairseq_masking.modules.compilation import COMPILATIONS, COMPILE_MODES
from fairseq_masking.modules.encoder import ACTIVATIONS, EncoderConfig
from fairseq_masking.modules.relative_position import BUCKETINGS
from fairseq_masking.ops.dispatch import IMPLEMENTATIONS

__all__ = ["EncoderModelConfig", "encoder_config"]

ACTIVATION_CHOICES = ChoiceEnum(list(ACTIVATIONS))
COMPILE_CHOICES = ChoiceEnum(list(COMPILATIONS))
COMPILE_MODE_CHOICES = ChoiceEnum(list(COMPILE_MODES))
OPS_IMPL_CHOICES = ChoiceEnum(list(IMPLEMENTATIONS))
RELATIVE_POSITION_CHOICES = ChoiceEnum(["none", *BUCKETINGS])


@dataclass
class EncoderModelConfig(FairseqDataclass):
    """What is None here comes from the architecture's row in ``architectures.SIZES``."""

    init_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint or Hugging Face model to start from, whose shape the encoder takes: one of"
            " any method or of fairseq's RoBERTa, a folder with config.json, or a name on the hub; read at"
            " a fresh start only"
        },
    )
    encoder_layers: Optional[int] = field(default=None, metadata={"help": "number of encoder layers"})
    encoder_embed_dim: Optional[int] = field(default=None, metadata={"help": "width of the encoder"})
    encoder_ffn_embed_dim: Optional[int] = field(
        default=None, metadata={"help": "inner width of the encoder's feed-forward layers"}
    )
    encoder_attention_heads: Optional[int] = field(
        default=None, metadata={"help": "number of attention heads"}
    )
    max_positions: int = field(default=512, metadata={"help": "number of learned absolute positions"})
    activation_fn: ACTIVATION_CHOICES = field(default="gelu", metadata={"help": "activation function"})
    normalize_before: bool = field(
        default=False, metadata={"help": "pre-LN layers and a final LayerNorm (default: post-LN, as BERT)"}
    )
    layer_norm_eps: float = field(
        default=1e-5, metadata={"help": "what LayerNorm adds to the variance (BERT's own: 1e-12)"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout probability"})
    attention_dropout: float = field(
        default=0.1, metadata={"help": "dropout probability for attention weights"}
    )
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability after the feed-forward activation"}
    )
    relative_position: RELATIVE_POSITION_CHOICES = field(
        default="none", metadata={"help": "relative position bias beside the absolute positions"}
    )
    relative_position_buckets: int = field(
        default=32, metadata={"help": "number of relative position buckets"}
    )
    relative_position_max_distance: int = field(
        default=128, metadata={"help": "distance from which on all share the last bucket"}
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute each layer in backward: less memory, more time"}
    )
    compile: COMPILE_CHOICES = field(
        default="auto",
        metadata={
            "help": "torch.compile in training. encoder: each Transformer layer; full: all from embedding to"
            " losses; auto: encoder on GPUs where it works, none on CPU"
        },
    )
    compile_mode: COMPILE_MODE_CHOICES = field(
        default="default",
        metadata={"help": "torch.compile's mode; reduce-overhead and max-autotune use CUDA graphs"},
    )
    ops_impl: OPS_IMPL_CHOICES = field(
        default="auto",
        metadata={
            "help": "fused operations. triton: kernels for GPUs of compute capability 8.0 and more; torch:"
            " chunked PyTorch, anywhere; auto: triton where it runs"
        },
    )
    pooler_activation_fn: ACTIVATION_CHOICES = field(
        default="tanh", metadata={"help": "activation function of classification heads"}
    )
    pooler_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability of classification heads"}
    )
    layer_lr_decay: float = field(
        default=1.0,
        metadata={
            "help": "factor between the learning rates of a layer and the next one, for fine-tuning with"
            " fused_adamw (1: all the same)"
        },
    )


def encoder_config(cfg: EncoderModelConfig, *, vocab_size: int, pad_index: int) -> EncoderConfig:
    """Return the encoder that ``cfg`` (its sizes filled in) describes."""
    return EncoderConfig(
        vocab_size=vocab_size,
        pad_index=pad_index,
        num_layers=cfg.encoder_layers,
        embed_dim=cfg.encoder_embed_dim,
        ffn_dim=cfg.encoder_ffn_embed_dim,
        num_heads=cfg.encoder_attention_heads,
        max_positions=cfg.max_positions,
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
        activation=str(cfg.activation_fn),
        layer_norm_eps=cfg.layer_norm_eps,
        normalize_before=cfg.normalize_before,
        relative_position=str(cfg.relative_position),
        relative_position_buckets=cfg.relative_position_buckets,
        relative_position_max_distance=cfg.relative_position_max_distance,
        checkpoint_activations=cfg.checkpoint_activations,
    )
