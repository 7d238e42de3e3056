"""Masked cross-entropy: every masked token counts once.

Source: Devlin et al. 2019 (BERT); 2010.06040, Eq. 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from torch import nn

from fairseq_masking.methods.base.masked_tokens import (
    Loss,
    MaskedTokenOutput,
    masked_token_logs,
    reduce_masked_token_logs,
)

__all__ = ["MLMCriterion", "MLMCriterionConfig"]


@dataclass
class MLMCriterionConfig(FairseqDataclass):
    """``mlm`` has no options."""


@register_criterion("mlm", dataclass=MLMCriterionConfig)
class MLMCriterion(FairseqCriterion):
    """Sum of the cross-entropies of all masked tokens; ``sample_size`` is their number."""

    required_output = MaskedTokenOutput

    def __init__(self, cfg: FairseqDataclass, task: Any) -> None:
        super().__init__(task)
        self.cfg = cfg

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> Loss:
        """Return the summed loss (nats), the number of masked tokens and the sums to log."""
        output = model(**sample["net_input"])
        return output.losses_N.sum(), output.losses_N.numel(), masked_token_logs(output, sample)

    @staticmethod
    def reduce_metrics(logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Aggregate over micro-batches and ranks."""
        reduce_masked_token_logs(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Yes: sums and counts only."""
        return True
