"""Extractive question answering: cross-entropy of an answer's first and last token, and SQuAD's scores.

Shapes: B rows, T length, N rows of the whole set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.logging.meters import MetersDict
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.squad.answers import (
    likeliest_spans,
    row_candidates,
    score_rows,
    scored_answers,
)
from fairseq_masking.finetuning.squad.head import span_losses
from fairseq_masking.finetuning.squad.scoring import squad_scores
from fairseq_masking.methods.base.masked_tokens import total

__all__ = ["SquadCriterion", "SquadCriterionConfig"]

_ROWS = "_rows"  # a leading underscore keeps a meter out of the log
_SCORES = ("f1", "exact", "f1_threshold", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")


@dataclass
class SquadCriterionConfig(FairseqDataclass):
    """How answers are looked for in validation."""

    n_best: int = field(
        default=20, metadata={"help": "look for answers among so many first and so many last tokens"}
    )
    max_answer_tokens: int = field(default=30, metadata={"help": "longest answer"})


@register_criterion("squad", dataclass=SquadCriterionConfig)
class SquadCriterion(FairseqCriterion):
    """Half the sum of both cross-entropies, over the paragraph's tokens and <s>; each row counts once.

    In validation each row also gives its likeliest answer, scored. The scores of the whole set, at the best
    null threshold, are computed from all rows together.
    """

    def __init__(self, cfg: SquadCriterionConfig, task: Any) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.head_name = getattr(task, "span_head", None)
        if self.head_name is None:
            raise UserError("--criterion squad goes with --task squad")

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the summed loss (nats), the number of rows and what to log."""
        logits_BT2, _ = model(
            **sample["net_input"], features_only=True, classification_head_name=self.head_name
        )
        loss = span_losses(logits_BT2, sample["window"], sample["targets"]).sum()
        num_rows = len(sample["targets"])
        logs = {
            "loss": loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": num_rows,
            "sample_size": num_rows,
        }
        if not self.training:
            spans = likeliest_spans(
                logits_BT2,
                sample["window"],
                n_best=self.cfg.n_best,
                max_tokens=self.cfg.max_answer_tokens,
            )
            references = sample["references"]
            logs[_ROWS] = score_rows(row_candidates(spans, references), references)
        return loss, num_rows, logs

    @staticmethod
    def reduce_metrics(logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log the loss (bits a row) and, in validation, SQuAD's scores of all rows so far."""
        num_rows = total(logging_outputs, "sample_size")
        if num_rows:
            loss = total(logging_outputs, "loss") / num_rows / math.log(2)
            metrics.log_scalar("loss", loss, num_rows, priority=10, round=3)
        for log in logging_outputs:
            if _ROWS in log:
                metrics.log_concat_tensor(_ROWS, log[_ROWS])
        if any(_ROWS in log for log in logging_outputs):
            for priority, name in enumerate(_SCORES, start=11):
                metrics.log_derived(name, lambda meters, name=name: _score(meters, name), priority)

    def logging_outputs_can_be_summed(self) -> bool:
        """In training: sums and counts. In validation the rows of all ranks are put one after another."""
        return self.training


def _score(meters: MetersDict, name: str) -> float:
    return round(squad_scores(scored_answers(meters[_ROWS].tensor)).get(name, math.nan), 3)
