"""Objectives of fine-tuning that score the whole validation set: fairseq's ``sentence_prediction`` here,
SQuAD's in squad/criterion.py.

The stock ``sentence_prediction`` rounds its scores to a decimal, so that several checkpoints tie, has no
macro-F1, cannot read class names in words, and fails on several ranks. The loss is the same.

Shapes: B rows of a batch, C classes, N rows of the whole set.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor, nn

from fairseq_masking.compat.options import option
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.metrics import metric_names, row_scores
from fairseq_masking.methods.base.masked_tokens import Loss
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["RowsCriterion", "ScoredSentencePredictionConfig", "ScoredSentencePredictionCriterion"]

_ROWS = "_rows"  # what rows are scored by; a leading underscore keeps a meter out of the log

Scorer = tuple[Sequence[str], Callable[[Tensor], Mapping[str, float]]]


def _total(logging_outputs: Sequence[dict[str, Any]], key: str) -> float:
    return float(sum(log[key] for log in logging_outputs))


class RowsCriterion(FairseqCriterion):
    """A summed loss, whose ``sample_size`` is the number of rows; in validation the rows are scored together.

    A subclass has ``head_name``, and

        loss(logits, sample)    the summed loss, the number of rows, other sums to log in training
        rows(logits, sample)    what the batch's rows are scored by, float64 ``[B, ...]`` on the CPU
        scorer(log)             the names of the scores, and what computes them of ``[N, ...]``; they may be
                                the ``--best-checkpoint-metric``
    """

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> Loss:
        logits, _ = model(**sample["net_input"], features_only=True, classification_head_name=self.head_name)
        loss, num_rows, sums = self.loss(logits, sample)
        if not self.training:
            sums = {_ROWS: self.rows(logits.detach(), sample), "num_outputs": logits.shape[-1]}
        logs = {"loss": loss.detach(), "ntokens": sample["ntokens"], "nsentences": num_rows, **sums}
        return loss, num_rows, {**logs, "sample_size": num_rows}

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log the loss a row (cross-entropy in bits) and, in validation, the scores of all rows so far."""
        num_rows = _total(logging_outputs, "sample_size")
        if not num_rows:
            return
        # the stock criterion divides squared errors by log 2 as well: losses stay comparable
        loss = _total(logging_outputs, "loss") / num_rows / math.log(2)
        metrics.log_scalar("loss", loss, num_rows, priority=10, round=3)
        if all("num_correct" in log for log in logging_outputs):
            accuracy = 100 * _total(logging_outputs, "num_correct") / num_rows
            metrics.log_scalar("accuracy", accuracy, num_rows, priority=11, round=2)
        scored = [log for log in logging_outputs if _ROWS in log]
        for log in scored:
            metrics.log_concat_tensor(_ROWS, log[_ROWS])
        names, score = cls.scorer(scored[0]) if scored else ((), None)
        for priority, name in enumerate(names, start=11):
            metrics.log_derived(
                name, lambda meters, name=name: round(score(meters[_ROWS].tensor).get(name, math.nan), 3), priority
            )

    def logging_outputs_can_be_summed(self) -> bool:
        """In training: sums and counts. In validation the rows of all ranks are put one after another."""
        return self.training


@dataclass
class ScoredSentencePredictionConfig(FairseqDataclass):
    """Options of ``scored_sentence_prediction``; names shared with fairseq's criterion mean the same."""

    classification_head_name: str = option("sentence_classification_head", "name of the classification head")
    regression_target: bool = option(False, "predict scores, not classes")
    required_batch_size_multiple: int = II("dataset.required_batch_size_multiple")


@register_criterion("scored_sentence_prediction", dataclass=ScoredSentencePredictionConfig)
class ScoredSentencePredictionCriterion(RowsCriterion):
    """Cross-entropy of classes or squared error of scores; scored by ``metrics.row_scores``."""

    def __init__(self, cfg: ScoredSentencePredictionConfig, task: Any) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.head_name = cfg.classification_head_name
        if cfg.required_batch_size_multiple != 1:
            raise UserError(
                f"--required-batch-size-multiple {cfg.required_batch_size_multiple} lets fairseq drop the"
                " last rows of the validation set: give --required-batch-size-multiple 1"
            )
        dictionary = task.label_dictionary
        classes = [name for name in dictionary.symbols[dictionary.nspecial :] if name != MASK_SYMBOL]
        expected = 1 if cfg.regression_target else len(classes)
        if task.cfg.num_classes != expected:
            found = "scores" if cfg.regression_target else f"{expected} classes ({', '.join(classes)})"
            raise UserError(
                f"--num-classes {task.cfg.num_classes}, but the data has {found}: give --num-classes {expected}"
            )

    def loss(self, logits_BC: Tensor, sample: dict[str, Any]) -> Loss:
        """Nats, or squared errors; and of classes how many are right."""
        targets_B = sample["target"].view(-1)
        if self.cfg.regression_target:
            loss = F.mse_loss(logits_BC.view(-1).float(), targets_B.float(), reduction="sum")
            return loss, targets_B.numel(), {}
        loss = F.cross_entropy(logits_BC.float(), targets_B, reduction="sum")
        return loss, targets_B.numel(), {"num_correct": (logits_BC.argmax(-1) == targets_B).sum()}

    def rows(self, logits_BC: Tensor, sample: dict[str, Any]) -> Tensor:
        """Predictions and targets ``[B, 2]``."""
        predictions_B = logits_BC.view(-1).float() if self.cfg.regression_target else logits_BC.argmax(-1)
        return torch.stack([predictions_B.double(), sample["target"].view(-1).double()], dim=1).cpu()

    @staticmethod
    def scorer(log: dict[str, Any]) -> Scorer:
        """Those of so many classes, or of numbers where there is one output."""
        count = log["num_outputs"]
        return metric_names(count), lambda rows_N2: row_scores(*rows_N2.numpy().T, num_classes=count)
