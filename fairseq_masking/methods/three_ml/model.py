"""3ML: the encoder reads what is not masked; the [MASK]s enter a small decoder after it.

Source: 2211.04898, Section 2.2 and 3.3, Table 2 (options); spec/three_ml.md.
Shapes: B batch, T length, S visible tokens, M [MASK]s of a row, N masked tokens of the batch, D width of the
encoder, W width of the decoder, V vocabulary.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from torch import Tensor

from fairseq_masking.compat.options import option
from fairseq_masking.errors import UserError
from fairseq_masking.masking import Kind
from fairseq_masking.methods.base.encoder_model import EncoderModel
from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
from fairseq_masking.methods.base.options import EncoderModelConfig, register_architectures
from fairseq_masking.methods.three_ml import flops
from fairseq_masking.methods.three_ml.arrangement import Arrangement, arrange
from fairseq_masking.methods.three_ml.decoder import CrossDecoder, SelfDecoder, TwoSidedLMHead
from fairseq_masking.modules import EncoderConfig, MaskedLMHead
from fairseq_masking.modules.encoder import check_length
from fairseq_masking.ops import LinearCrossEntropyOutput, corrupt_tokens, gather_positions

__all__ = ["ThreeMLConfig", "ThreeMLModel", "decoder_config", "normalization"]

logger = logging.getLogger(__name__)

DECODER_ATTENTION_CHOICES = ChoiceEnum(list(flops.DECODER_ATTENTIONS))
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


@register_model("three_ml", dataclass=ThreeMLConfig)
class ThreeMLModel(EncoderModel):
    """An encoder of the visible tokens, a decoder of the [MASK]s, one prediction layer."""

    output_class = MaskedTokenOutput
    predicts_with = "encoder and decoder"
    tensor_methods = ("predict",)

    def __init__(self, cfg: ThreeMLConfig, **options: Any) -> None:
        cfg.normalize_before = normalization(cfg)
        super().__init__(cfg, **options)

    def build_pretraining(self, cfg: ThreeMLConfig) -> None:
        """Create the decoder and the prediction layer."""
        config = decoder_config(self.encoder.config, cfg)
        width, attention = cfg.encoder_embed_dim, str(cfg.decoder_attention)
        self.crossing = attention == "cross"
        inner = flops.feed_forward_flops(config.feed_forward, cfg.encoder_ffn_embed_dim, width)
        self.shape = flops.ThreeMLShape(
            attention, cfg.encoder_layers, width, cfg.decoder_layers, config.embed_dim, config.vocab_size, inner
        )
        self.decoder = (CrossDecoder if self.crossing else SelfDecoder)(config, input_dim=width)
        head = TwoSidedLMHead if self.crossing else MaskedLMHead
        self.lm_head = head(self.encoder.config, input_dim=config.embed_dim, eps=1e-5, impl=str(cfg.ops_impl))

    def pretrain(self, src_tokens: Tensor, **batch: Any) -> MaskedTokenOutput:
        """Predict the tokens at ``positions``; those that are [MASK] the encoder does not see."""
        check_length(src_tokens.shape[1], self.max_positions(), "model")
        arrangement = self._arrange(src_tokens, self.padding_of(src_tokens, batch), batch)
        predicted = self.predict(src_tokens, batch["positions"], batch["replacements"], arrangement)
        return MaskedTokenOutput(*predicted, self._measures(src_tokens.shape, batch))

    def _arrange(self, src_tokens: Tensor, padding_BT: Tensor | None, batch: dict[str, Any]) -> Arrangement:
        nowhere_BT = torch.zeros_like(src_tokens, dtype=torch.bool)
        hidden_BT = corrupt_tokens(nowhere_BT, batch["positions"], batch["kinds"] == Kind.MASK)
        told = {"shape": batch["shape"], "documents_BT": batch.get("documents")}
        return arrange(hidden_BT, padding_BT, batch["positions"], crossing=self.crossing, **told)

    def predict(
        self, src_tokens: Tensor, positions: Tensor, replacements: Tensor, arrangement: Arrangement
    ) -> LinearCrossEntropyOutput:
        """Return loss and arg max of each masked token: all of the model's arithmetic."""
        corrupted = corrupt_tokens(src_tokens, positions, replacements)
        projected_ND = self._project(corrupted, positions, arrangement)
        targets = gather_positions(src_tokens, positions)
        return self.lm_head.projected_losses(projected_ND, self.encoder.embed_tokens.weight, targets)

    def mask_states(self, src_tokens: Tensor, **batch: Any) -> list[Tensor]:
        """Return the states ``[M, W]`` of the batch's [MASK]s: the decoder's, as the encoder has none."""
        corrupted = corrupt_tokens(src_tokens, batch["positions"], batch["replacements"])
        arrangement = self._arrange(src_tokens, src_tokens == self.pad_index, batch)
        _, states = self._decode(corrupted, arrangement)
        where = batch["positions"][batch["kinds"] == Kind.MASK]
        find = gather_positions if arrangement.masked is None else arrangement.masked.at
        return [find(state, where) for state in states]

    def _decode(self, corrupted_BT: Tensor, arrangement: Arrangement) -> tuple[Tensor, list[Tensor]]:
        """Return the encoder's states ``[B, S, D]``, each token at its original place, and the decoder's."""
        visible, masked = arrangement.visible, arrangement.masked
        where = {"positions_BT": visible.places_BS, "padding_BT": visible.empty_BS}
        tokens_BS = visible.take(corrupted_BT, fill=self.pad_index)
        encoded_BSD = self.encoder(tokens_BS, **where, documents_BT=visible.documents_BS).hidden_BTD
        others = (arrangement.padding_BT, arrangement.documents_BT) if masked is None else (masked,)
        return encoded_BSD, self.decoder(encoded_BSD, visible, *others)

    def _project(self, corrupted_BT: Tensor, positions: Tensor, arrangement: Arrangement) -> Tensor:
        """Return what is multiplied with the embedding ``[N, D]``, in the order of ``positions``."""
        encoded_BSD, (*_, decoded) = self._decode(corrupted_BT, arrangement)
        if arrangement.masked is None:
            return self.lm_head.project(gather_positions(decoded, positions))
        sides_ND = self.lm_head.project_sides(
            arrangement.masked.at(decoded, arrangement.mask_positions_M),
            arrangement.visible.at(encoded_BSD, arrangement.other_positions),
        )
        return torch.empty_like(sides_ND).index_copy(0, arrangement.mask_first_N, sides_ND)

    def _measures(self, size: torch.Size, batch: dict[str, Any]) -> dict[str, float]:
        """Return what to log: how much the encoder reads, and what that saves (padding counts as tokens)."""
        rows, length = size
        num_mask = batch["shape"]["num_mask"] / rows
        counts = flops.Counts(length, num_mask, batch["positions"].numel() / rows - num_mask)
        saved = flops.share_saved(self.shape, counts, flops.exact_counts(length, flops.BASELINE_RATE))
        return {"encoder_length": batch["shape"]["max_visible"], "flops_saved": saved}

    def token_logits(self, src_tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        check_length(src_tokens.shape[1], self.max_positions(), "model")
        hidden, padding = src_tokens == self.mask_index, src_tokens == self.pad_index
        asked = torch.arange(src_tokens.numel(), device=src_tokens.device) if positions is None else positions
        arrangement = arrange(hidden, padding, asked, crossing=self.crossing)
        projected_ND = self._project(src_tokens, asked, arrangement)
        logits = self.lm_head.projected_logits(projected_ND, self.encoder.embed_tokens.weight)
        return logits.view(*src_tokens.shape, -1) if positions is None else logits


def normalization(cfg: ThreeMLConfig) -> bool:
    """Pre-LN or post-LN: what the options say, else what Section 3.3 found best."""
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


register_architectures("three_ml", ThreeMLConfig, {"large": {"normalize_before": True}})
