"""Options every model has, the encoder's shape and regularisation, and the one table of its sizes.

From the table both fairseq's ``--arch`` functions and Hydra's model nodes are made.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import register_model_architecture
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, open_dict

from fairseq_masking.compat.options import option
from fairseq_masking.modules.compilation import COMPILATIONS, COMPILE_MODES
from fairseq_masking.modules.config import ACTIVATIONS, FEED_FORWARDS, NORMS, POSITION_ENCODINGS, EncoderConfig
from fairseq_masking.modules.heads import POOLINGS
from fairseq_masking.modules.relative_position import BUCKETINGS
from fairseq_masking.ops.dispatch import IMPLEMENTATIONS

__all__ = ["SIZES", "EncoderModelConfig", "encoder_config", "fill_in_missing", "register_architectures"]

ACTIVATION_CHOICES = ChoiceEnum(list(ACTIVATIONS))
COMPILE_CHOICES = ChoiceEnum(list(COMPILATIONS))
COMPILE_MODE_CHOICES = ChoiceEnum(list(COMPILE_MODES))
FEED_FORWARD_CHOICES = ChoiceEnum(list(FEED_FORWARDS))
NORM_CHOICES = ChoiceEnum(list(NORMS))
OPS_IMPL_CHOICES = ChoiceEnum(list(IMPLEMENTATIONS))
POOLING_CHOICES = ChoiceEnum(list(POOLINGS))
POSITION_ENCODING_CHOICES = ChoiceEnum(list(POSITION_ENCODINGS))
RELATIVE_POSITION_CHOICES = ChoiceEnum(["none", *BUCKETINGS])


@dataclass(frozen=True)
class _Size:
    encoder_layers: int
    encoder_embed_dim: int
    encoder_ffn_embed_dim: int
    encoder_attention_heads: int


@dataclass(frozen=True)
class _ModernSize(_Size):
    """ModernBERT's kind of encoder. Source: Warner et al. 2024 (2412.13663), Section 2.1 and Table 4."""

    max_positions: int = 8192
    position_encoding: str = "rotary"
    rope_theta: float = 160_000.0
    relative_position: str = "none"
    normalize_before: bool = True
    skip_first_norm: bool = True
    feed_forward: str = "glu"
    no_attention_bias: bool = True
    no_feed_forward_bias: bool = True
    no_norm_bias: bool = True
    no_head_bias: bool = True
    attention_window: int = 128
    dropout: float = 0.0
    attention_dropout: float = 0.0
    pooler_activation_fn: str = "gelu"
    pooler_norm: bool = True


# tiny and small have about the parameters of their namesakes.
SIZES = {
    "tiny": _Size(2, 128, 512, 2),
    "small": _Size(6, 256, 1024, 4),
    "base": _Size(12, 768, 3072, 12),
    "large": _Size(24, 1024, 4096, 16),
    "modern_tiny": _ModernSize(2, 128, 344, 2),
    "modern_small": _ModernSize(6, 256, 688, 4),
    "modern_base": _ModernSize(22, 768, 1152, 12),
    "modern_large": _ModernSize(28, 1024, 2624, 16),
}


@dataclass
class EncoderModelConfig(FairseqDataclass):
    """What is None here comes from the architecture's row in ``SIZES``."""

    init_from: Optional[str] = option(
        None,
        "checkpoint or Hugging Face model to start from, whose shape the encoder takes: one of any method or of"
        " fairseq's RoBERTa, a folder with config.json, or a name on the hub; read at a fresh start only",
    )
    encoder_layers: Optional[int] = option(None, "number of encoder layers")
    encoder_embed_dim: Optional[int] = option(None, "width of the encoder")
    encoder_ffn_embed_dim: Optional[int] = option(None, "inner width of the encoder's feed-forward layers")
    encoder_attention_heads: Optional[int] = option(None, "number of attention heads")
    max_positions: int = option(512, "number of learned absolute positions; longest input, in tokens")
    position_encoding: POSITION_ENCODING_CHOICES = option(
        "learned",
        "how attention knows places. learned: a vector for each, added to the token's; rotary: queries and keys"
        " are turned by angles that grow with the place",
    )
    rope_theta: float = option(10_000.0, "base of the wave lengths of rotary positions (ModernBERT: 160000)")
    rope_local_theta: float = option(10_000.0, "the same, in layers that attend locally")
    attention_window: int = option(
        0, "tokens that layers which attend locally reach, half to each side (ModernBERT: 128); 0: all reach all"
    )
    global_attention_every: int = option(
        3, "with --attention-window: the first of so many layers attends globally, the others locally"
    )
    feed_forward: FEED_FORWARD_CHOICES = option(
        "mlp", "feed-forward layers. glu: gated by a second projection of the input (GeGLU with gelu)"
    )
    norm: NORM_CHOICES = option("layer_norm", "kind of all norms; --layer-norm-eps is its eps, too")
    skip_first_norm: bool = option(
        False, "no norm before the first layer's attention, as the embedding's is there already (with pre-LN)"
    )
    no_attention_bias: bool = option(False, "no biases in the projections of attention")
    no_feed_forward_bias: bool = option(False, "no biases in feed-forward layers")
    no_norm_bias: bool = option(False, "no biases in LayerNorms")
    no_head_bias: bool = option(False, "no biases in the heads' dense layers, their outputs keep them")
    activation_fn: ACTIVATION_CHOICES = option("gelu", "activation function")
    normalize_before: bool = option(False, "pre-LN layers and a final LayerNorm (default: post-LN, as BERT)")
    layer_norm_eps: float = option(1e-5, "what LayerNorm adds to the variance (BERT's own: 1e-12)")
    dropout: float = option(0.1, "dropout probability")
    attention_dropout: float = option(0.1, "dropout probability for attention weights")
    activation_dropout: float = option(0.0, "dropout probability after the feed-forward activation")
    relative_position: RELATIVE_POSITION_CHOICES = option(
        "none", "relative position bias beside the absolute positions"
    )
    relative_position_buckets: int = option(32, "number of relative position buckets")
    relative_position_max_distance: int = option(128, "distance from which on all share the last bucket")
    checkpoint_activations: bool = option(False, "recompute each layer in backward: less memory, more time")
    compile: COMPILE_CHOICES = option(
        "auto",
        "torch.compile in training. encoder: each Transformer layer; full: all from embedding to"
        " losses; auto: encoder on GPUs where it works, none on CPU",
    )
    compile_mode: COMPILE_MODE_CHOICES = option(
        "default", "torch.compile's mode; reduce-overhead and max-autotune use CUDA graphs"
    )
    ops_impl: OPS_IMPL_CHOICES = option(
        "auto",
        "fused operations. triton: kernels for GPUs of compute capability 8.0 and more; torch:"
        " chunked PyTorch, anywhere; auto: triton where it runs",
    )
    pooler_activation_fn: ACTIVATION_CHOICES = option("tanh", "activation function of classification heads")
    pooler_norm: bool = option(False, "a norm after that activation")
    pooling: POOLING_CHOICES = option("first", "what classification heads read: the state of <s>, or all tokens' mean")
    pooler_dropout: float = option(0.0, "dropout probability of classification heads")
    layer_lr_decay: float = option(
        1.0,
        "factor between the learning rates of a layer and the next one, for fine-tuning with"
        " fused_adamw (1: all the same)",
    )


# Fields of EncoderConfig whose option has another name.
_OPTIONS = {
    "num_layers": "encoder_layers",
    "embed_dim": "encoder_embed_dim",
    "ffn_dim": "encoder_ffn_embed_dim",
    "num_heads": "encoder_attention_heads",
    "activation": "activation_fn",
}


def encoder_config(cfg: EncoderModelConfig, *, vocab_size: int, pad_index: int) -> EncoderConfig:
    """Return the encoder that ``cfg`` (its sizes filled in) describes."""
    given = {"vocab_size": vocab_size, "pad_index": pad_index}
    options = {field.name: getattr(cfg, _OPTIONS.get(field.name, field.name)) for field in fields(EncoderConfig)
               if field.name not in given}  # fmt: skip
    return EncoderConfig(
        **given, **{name: str(value) if isinstance(value, Enum) else value for name, value in options.items()}
    )


def fill_in_missing(cfg: Namespace | DictConfig, values: Mapping[str, Any]) -> None:
    """Write ``values`` where ``cfg`` says nothing: an explicit option always wins."""
    missing = {key: value for key, value in values.items() if getattr(cfg, key, None) is None}
    if isinstance(cfg, DictConfig):
        with open_dict(cfg):
            cfg.update(missing)
    else:
        vars(cfg).update(missing)


def register_architectures(
    model: str, config_class: type[EncoderModelConfig], extra: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Register ``{model}_{size}`` for ``--arch`` and Hydra's ``model=``, with a size's ``extra`` options."""
    for size, encoder in SIZES.items():
        values = {**vars(encoder), **(extra or {}).get(size, {})}
        name = f"{model}_{size}"
        register_model_architecture(model, name)(lambda cfg, values=values: fill_in_missing(cfg, values))
        node = replace(config_class(), **values)
        node._name = name
        ConfigStore.instance().store(name=name, group="model", node=node, provider="fairseq_masking")
