"""The prediction layer of 3ML with a cross-attention decoder: two inputs, one layer.

Source: 2211.04898, Section 2.2; spec/three_ml.md, "Prediction layer".
Shapes: M [MASK]s, N other masked tokens, W width of the decoder, D width of the encoder, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fairseq_masking.modules.encoder import init_bert_weights
from fairseq_masking.modules.heads import MaskedLMHead

__all__ = ["TwoSidedLMHead"]


class TwoSidedLMHead(MaskedLMHead):
    """A dense layer for each side (``dense`` is the decoder's), all that follows is shared."""

    def __init__(self, embed_dim: int, vocab_size: int, *, input_dim: int, **options: Any) -> None:
        super().__init__(embed_dim, vocab_size, input_dim=input_dim, **options)
        self.encoder_dense = nn.Linear(embed_dim, embed_dim)
        self.encoder_dense.apply(init_bert_weights)

    def project_sides(self, decoded_MW: Tensor, encoded_ND: Tensor) -> Tensor:
        """Return what is multiplied with the embedding, ``[M + N, D]``: the decoder's side first."""
        dense = torch.cat([self.dense(decoded_MW), self.encoder_dense(encoded_ND)])
        return self.layer_norm(self.activation(dense))
