"""Options of 3ML, and what follows from them where the paper says what works.

Source: 2211.04898, Section 3.3 and Table 2; spec/three_ml.md.
"""

import logging
from dataclasses import dataclass, replace
from typing import Optional

from fairseq.dataclass import ChoiceEnum

from fairseq_masking.compat.options import option
from fairseq_masking.errors import UserError
from fairseq_masking.methods.base.options import EncoderModelConfig
from fairseq_masking.methods.three_ml.flops import DECODER_ATTENTIONS
from fairseq_masking.modules import EncoderConfig

__all__ = ["ThreeMLConfig", "decoder_config", "normalization"]

logger = logging.getLogger(__name__)

DECODER_ATTENTION_CHOICES = ChoiceEnum(list(DECODER_ATTENTIONS))
_HEAD_SIZE = 64


@dataclass
class ThreeMLConfig(EncoderModelConfig):
    """Options of ``three_ml`` beside the encoder's; dropout and activation are shared by both."""

    # None: what the paper found best for encoder and decoder (``normalization``, the table of archs).
    normalize_before: Optional[bool] = option(
        None,
        "pre-LN layers and a final LayerNorm in encoder and decoder (default: as the paper,"
        " pre-LN for large and with --decoder-attention cross, post-LN otherwise)",
    )
    force_post_ln: bool = option(False, "post-LN all the same, even where the paper found it not to train")
    decoder_attention: DECODER_ATTENTION_CHOICES = option(
        "self",
        "self: the decoder reads the whole sequence; cross: only the [MASK]s, which attend to the encoder's output",
    )
    decoder_layers: int = option(2, "number of decoder layers")
    decoder_embed_dim: Optional[int] = option(
        None, "width of the decoder, a head for every 64 (default: half of the encoder's)"
    )


def normalization(cfg: ThreeMLConfig) -> bool:
    """Pre-LN or post-LN: what the options say, else what Section 3.3 found best.

    Raises:
        UserError: post-LN with cross-attention, which does not train.
    """
    crossing = str(cfg.decoder_attention) == "cross"
    if cfg.force_post_ln:
        if crossing:
            logger.warning("post-LN with --decoder-attention cross: the paper could not train it")
        return False
    if cfg.normalize_before is None:
        return crossing
    if crossing and not cfg.normalize_before:
        raise UserError(
            'normalize_before=false with --decoder-attention cross: "Post-LN doesn\'t work for 3ML_cross"'
            " (2211.04898, Section 3.3): leave it unset for pre-LN, or insist with --force-post-ln"
        )
    return bool(cfg.normalize_before)


def decoder_config(encoder: EncoderConfig, cfg: ThreeMLConfig) -> EncoderConfig:
    """A decoder of the encoder's kind; relative positions it has none, and all of its layers attend globally."""
    width = encoder.embed_dim // 2 if cfg.decoder_embed_dim is None else cfg.decoder_embed_dim
    heads = max(1, width // _HEAD_SIZE)
    if cfg.decoder_layers < 1:
        raise UserError(f"--decoder-layers {cfg.decoder_layers}: at least 1 is needed, the paper takes 2")
    if width < 1 or width % heads:
        raise UserError(
            f"--decoder-embed-dim {width}: a multiple of {_HEAD_SIZE} is needed, the width of a head (or any"
            f" width below {2 * _HEAD_SIZE})"
        )
    return replace(
        encoder,
        num_layers=cfg.decoder_layers,
        embed_dim=width,
        ffn_dim=4 * width if encoder.feed_forward == "mlp" else encoder.ffn_dim * width // encoder.embed_dim,
        num_heads=heads,
        relative_position="none",
        attention_window=0,
        skip_first_norm=False,
    )
