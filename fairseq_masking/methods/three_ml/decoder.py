"""3ML's small decoders, where the [MASK]s enter after an encoder that never saw them, and what predicts then.

Source: 2211.04898, Section 2.2 and 3.3; spec/three_ml.md.
Shapes: B batch, T length, S visible tokens (what the encoder read), M [MASK]s, N other masked tokens, D width
of the encoder, W width of the decoder, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fairseq_masking.methods.three_ml.arrangement import Selection
from fairseq_masking.modules.attention import CrossAttention
from fairseq_masking.modules.encoder import EncoderConfig, LayerStack, TransformerLayer, init_bert_weights
from fairseq_masking.modules.heads import MaskedLMHead
from fairseq_masking.modules.reach import places_within, visible_keys

__all__ = ["CrossDecoder", "CrossDecoderLayer", "SelfDecoder", "TwoSidedLMHead"]


class CrossDecoderLayer(TransformerLayer):
    """A Transformer layer with cross-attention between self-attention and feed-forward, no causal mask."""

    def __init__(self, config: EncoderConfig, number: int = 0) -> None:
        super().__init__(config, number)
        self.cross_attn = CrossAttention(
            config.embed_dim, config.num_heads, dropout=config.attention_dropout, bias=not config.no_attention_bias
        )
        self.cross_attn_layer_norm = config.build_norm(1e-5)

    def forward(  # type: ignore[override]  # a layer with a second input
        self,
        hidden_BMW: Tensor,
        attention_bias: Tensor | None,
        rotation: Tensor | None,
        memory_BSW: Tensor,
        memory_bias: Tensor | None,
        memory_rotation: Tensor | None,
    ) -> Tensor:
        """Return float ``[B, M, W]``; biases and rotations as in ``SelfAttention`` and ``CrossAttention``."""
        rotations = None if rotation is None or memory_rotation is None else (rotation, memory_rotation)
        memory = (memory_BSW, memory_bias, rotations)
        hidden_BMW = self.residual(
            hidden_BMW, self.self_attn_layer_norm, lambda hidden: self.self_attn(hidden, attention_bias, rotation)
        )
        hidden_BMW = self.residual(
            hidden_BMW, self.cross_attn_layer_norm, lambda hidden: self.cross_attn(hidden, *memory)
        )
        return self.residual(hidden_BMW, self.final_layer_norm, self._feed_forward)


class _Decoder(LayerStack):
    """What both decoders have: a [MASK] vector, positions and layers of width W, a projection from D.

    The [MASK] vector lives in the decoder's space and is no word embedding. Where the widths are equal there
    is no projection.
    """

    def __init__(self, config: EncoderConfig, *, input_dim: int) -> None:
        super().__init__()
        width = config.embed_dim
        self.project_states = nn.Identity() if input_dim == width else nn.Linear(input_dim, width)
        self.mask_embedding = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.create_layers(config, embedding_norm=not config.normalize_before)
        self.apply(init_bert_weights)


class SelfDecoder(_Decoder):
    """Self-attention over the whole sequence: encoder states at their places, [MASK] vectors in the holes."""

    def forward(
        self,
        states_BSD: Tensor,
        visible: Selection,
        padding_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> list[Tensor]:
        """Return states ``[B, T, W]`` of its input and of every layer; those at padding mean nothing."""
        filled_BTW = visible.put_back(self.project_states(states_BSD), self.mask_embedding)
        places_BT = places_within(documents_BT)
        reaches = self.reaches(filled_BTW, places_BT, visible_keys(padding_BT, documents_BT))
        return self.run_layers(self.enter(filled_BTW, places_BT), reaches)


class CrossDecoder(_Decoder):
    """The [MASK]s alone attend to one another, and to the encoder's states."""

    layer_class = CrossDecoderLayer

    def forward(self, states_BSD: Tensor, visible: Selection, masked: Selection) -> list[Tensor]:
        """Return states ``[B, M, W]`` of its input and of every layer; those at empty places mean nothing."""
        embedded_BMW = self.enter(self.mask_embedding.expand(*masked.places_BS.shape, -1), masked.places_BS)
        attention_bias = memory_bias = None
        if masked.documents_BS is not None and visible.documents_BS is not None:
            attention_bias = visible_keys(None, masked.documents_BS)
            memory_bias = (masked.documents_BS[:, :, None] == visible.documents_BS[:, None, :])[:, None]
            memory_bias = memory_bias | (masked.documents_BS < 0)[:, None, :, None]  # empty places reach all
        elif masked.empty_BS is not None:
            # A row without any [MASK] must still have something to attend to, or its softmax is 0 / 0.
            first_M = torch.arange(masked.empty_BS.shape[1], device=embedded_BMW.device) == 0
            attention_bias = (~masked.empty_BS | first_M)[:, None, None, :]
        if memory_bias is None and visible.empty_BS is not None:
            memory_bias = ~visible.empty_BS[:, None, None, :]
        memory_BSW = self.project_states(states_BSD)
        reaches = self.reaches(embedded_BMW, masked.places_BS, attention_bias)
        rotation = self.rotation(memory_BSW, visible.places_BS)
        return self.run_layers(embedded_BMW, reaches, memory_BSW, memory_bias, rotation)


class TwoSidedLMHead(MaskedLMHead):
    """The prediction layer after a ``CrossDecoder``: a dense layer for each side, all that follows is shared.

    ``dense`` is the decoder's. Source: 2211.04898, Section 2.2; spec/three_ml.md, "Prediction layer".
    """

    def __init__(self, config: EncoderConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.encoder_dense = nn.Linear(config.embed_dim, config.embed_dim, bias=not config.no_head_bias)
        self.encoder_dense.apply(init_bert_weights)

    def project_sides(self, decoded_MW: Tensor, encoded_ND: Tensor) -> Tensor:
        """Return what is multiplied with the embedding, ``[M + N, D]``: the decoder's side first."""
        dense = torch.cat([self.dense(decoded_MW), self.encoder_dense(encoded_ND)])
        return self.layer_norm(self.activation(dense))
