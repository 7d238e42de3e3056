"""The heads on top of an encoder: masked-token prediction and sentence classification.

Shapes: N masked tokens, V vocabulary, B batch, T length, D width, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_masking.modules.config import ACTIVATIONS, EncoderConfig
from fairseq_masking.modules.encoder import init_bert_weights
from fairseq_masking.ops import LinearCrossEntropyOutput, linear_cross_entropy

__all__ = ["POOLINGS", "ClassificationHead", "MaskedLMHead"]

POOLINGS = ("first", "mean")


class MaskedLMHead(nn.Module):
    """BERT's prediction layer: dense, activation, LayerNorm, then the tied embedding and a bias.

    The embedding stays the encoder's: it is passed in, so that it is one parameter in one place. ``input_dim`` is the
    width of the states, where it is not the encoder's.
    """

    def __init__(
        self, config: EncoderConfig, *, input_dim: int | None = None, eps: float | None = None, impl: str = "auto"
    ) -> None:
        super().__init__()
        self.impl = impl
        self.dense = nn.Linear(input_dim or config.embed_dim, config.embed_dim, bias=not config.no_head_bias)
        self.activation = ACTIVATIONS[config.activation]
        self.layer_norm = config.build_norm(eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(init_bert_weights)

    def project(self, features_ND: Tensor) -> Tensor:
        """Return what is multiplied with the embedding, ``[N, D]``."""
        return self.layer_norm(self.activation(self.dense(features_ND)))

    def forward(self, features_ND: Tensor, embedding_VD: Tensor) -> Tensor:
        """Return the logits ``[..., V]``."""
        return self.projected_logits(self.project(features_ND), embedding_VD)

    def projected_logits(self, projected_ND: Tensor, embedding_VD: Tensor) -> Tensor:
        """The same for what ``project`` returned."""
        return F.linear(projected_ND, embedding_VD, self.bias)

    def losses(self, features_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor) -> LinearCrossEntropyOutput:
        """Cross-entropy (nats) and arg max per position, without a lasting ``[N, V]`` tensor."""
        return self.projected_losses(self.project(features_ND), embedding_VD, targets_N)

    def projected_losses(
        self, projected_ND: Tensor, embedding_VD: Tensor, targets_N: Tensor
    ) -> LinearCrossEntropyOutput:
        """The same for what ``project`` returned."""
        return linear_cross_entropy(projected_ND, embedding_VD, self.bias, targets_N, impl=self.impl)


class ClassificationHead(nn.Module):
    """RoBERTa's sentence head: dropout, dense, activation, dropout, output on the state of ``<s>``.

    With ``pooling`` ``mean`` on the mean of all states, padding left out; ``norm`` is after the activation.
    """

    def __init__(
        self,
        input_dim: int,
        inner_dim: int,
        num_classes: int,
        *,
        activation: str,
        dropout: float,
        pooling: str = "first",
        norm: nn.Module | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.dense = nn.Linear(input_dim, inner_dim, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.layer_norm = norm or nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(inner_dim, num_classes)
        self.apply(init_bert_weights)

    def forward(self, features_BTD: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Return the scores ``[B, C]``."""
        if self.pooling == "first":
            pooled_BD = features_BTD[:, 0]
        elif padding_BT is None:
            pooled_BD = features_BTD.mean(dim=1)
        else:
            text_BT1 = ~padding_BT[..., None]
            pooled_BD = features_BTD.masked_fill(~text_BT1, 0.0).sum(dim=1) / text_BT1.sum(dim=1)
        hidden = self.layer_norm(self.activation(self.dense(self.dropout(pooled_BD))))
        return self.out_proj(self.dropout(hidden))
