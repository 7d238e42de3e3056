"""Plain masked language modelling: one encoder reads the corrupted text and predicts what stood there.

Source: Devlin et al. 2019 (BERT), task 1. Also the model of fully-explored MLM (2010.06040), which changes
only which positions are masked.
"""

from dataclasses import dataclass
from typing import Any

from fairseq.models import register_model
from torch import Tensor

from fairseq_masking.methods.base.encoder_model import EncoderModel
from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
from fairseq_masking.methods.base.options import EncoderModelConfig, register_architectures
from fairseq_masking.modules import MaskedLMHead
from fairseq_masking.ops import LinearCrossEntropyOutput, corrupt_tokens, gather_positions

__all__ = ["MLMConfig", "MLMModel"]


@dataclass
class MLMConfig(EncoderModelConfig):
    """Options of ``mlm``: the encoder's alone."""


@register_model("mlm", dataclass=MLMConfig)
class MLMModel(EncoderModel):
    """Encoder and masked-language-model head with the tied embedding."""

    output_class = MaskedTokenOutput
    tensor_methods = ("predict",)

    def build_pretraining(self, cfg: EncoderModelConfig) -> None:
        """Create the prediction head."""
        self.lm_head = MaskedLMHead(self.encoder.config, impl=str(cfg.ops_impl))

    def pretrain(self, src_tokens: Tensor, **batch: Any) -> MaskedTokenOutput:
        """Predict the tokens at ``positions`` from the corrupted text."""
        padding, documents = self.padding_of(src_tokens, batch), batch.get("documents")
        predicted = self.predict(src_tokens, batch["positions"], batch["replacements"], padding, documents)
        return MaskedTokenOutput(*predicted)

    def predict(
        self,
        src_tokens: Tensor,
        positions: Tensor,
        replacements: Tensor,
        padding_BT: Tensor | None,
        documents_BT: Tensor | None = None,
    ) -> LinearCrossEntropyOutput:
        """Return loss and arg max of each masked token: all of the model's arithmetic."""
        corrupted = corrupt_tokens(src_tokens, positions, replacements)
        hidden = self.encoder(corrupted, padding_BT=padding_BT, documents_BT=documents_BT).hidden_BTD
        features = gather_positions(hidden, positions)
        targets = gather_positions(src_tokens, positions)
        return self.lm_head.losses(features, self.encoder.embed_tokens.weight, targets)

    def token_logits(self, src_tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        states = self.token_states(src_tokens)[-1]
        states = states if positions is None else gather_positions(states, positions)
        return self.lm_head(states, self.encoder.embed_tokens.weight)


register_architectures("mlm", MLMConfig)
