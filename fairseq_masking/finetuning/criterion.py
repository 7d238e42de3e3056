"""fairseq's ``sentence_prediction`` objective, with scores of the whole validation set.

The loss is the stock criterion's. That one rounds its scores to a decimal, so that several checkpoints tie,
has no macro-F1, cannot read class names in words, and fails on several ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.logging.meters import MetersDict
from omegaconf import II
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.metrics import classification_scores, metric_names, regression_scores
from fairseq_masking.methods.base.masked_tokens import total
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["ScoredSentencePredictionConfig", "ScoredSentencePredictionCriterion"]

_ROWS = "_rows"  # predictions and targets; a leading underscore keeps a meter out of the log


@dataclass
class ScoredSentencePredictionConfig(FairseqDataclass):
    """Options of ``scored_sentence_prediction``; names shared with fairseq's criterion mean the same."""

    classification_head_name: str = field(
        default="sentence_classification_head", metadata={"help": "name of the classification head"}
    )
    regression_target: bool = field(default=False, metadata={"help": "predict scores, not classes"})
    required_batch_size_multiple: int = II("dataset.required_batch_size_multiple")


@register_criterion("scored_sentence_prediction", dataclass=ScoredSentencePredictionConfig)
class ScoredSentencePredictionCriterion(FairseqCriterion):
    """Cross-entropy of classes or squared error of scores, summed; ``sample_size`` is the number of rows.

    In validation the predictions of all rows are collected and scored together, so
    ``--best-checkpoint-metric`` may be any name of ``evaluation.metrics.metric_names``.
    """

    def __init__(self, cfg: ScoredSentencePredictionConfig, task: Any) -> None:
        super().__init__(task)
        self.cfg = cfg
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
                f"--num-classes {task.cfg.num_classes}, but the data has {found}: give --num-classes"
                f" {expected}"
            )

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the summed loss, the number of rows and what to log."""
        logits_BC, _ = model(
            **sample["net_input"],
            features_only=True,
            classification_head_name=self.cfg.classification_head_name,
        )
        targets_B = sample["target"].view(-1)
        if self.cfg.regression_target:
            predictions_B = logits_BC.view(-1).float()
            loss = F.mse_loss(predictions_B, targets_B.float(), reduction="sum")
        else:
            predictions_B = logits_BC.argmax(-1)
            loss = F.cross_entropy(logits_BC.float(), targets_B, reduction="sum")
        num_rows = targets_B.numel()
        logs = {
            "loss": loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": num_rows,
            "sample_size": num_rows,
        }
        if not self.training:
            rows = torch.stack([predictions_B.detach().double(), targets_B.double()], dim=1)
            logs.update({_ROWS: rows.cpu(), "num_classes": logits_BC.shape[1]})
        elif not self.cfg.regression_target:
            logs["num_correct"] = (predictions_B == targets_B).sum()
        return loss, num_rows, logs

    @staticmethod
    def reduce_metrics(logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log the loss a row (cross-entropy in bits) and, in validation, the scores of all rows so far."""
        num_rows = total(logging_outputs, "sample_size")
        if not num_rows:
            return
        num_classes = max(log.get("num_classes", 0) for log in logging_outputs)
        # the stock criterion divides squared errors by log 2 as well: losses stay comparable
        loss = total(logging_outputs, "loss") / num_rows / math.log(2)
        metrics.log_scalar("loss", loss, num_rows, priority=10, round=3)
        if all("num_correct" in log for log in logging_outputs):
            accuracy = 100 * total(logging_outputs, "num_correct") / num_rows
            metrics.log_scalar("accuracy", accuracy, num_rows, priority=11, round=2)
        for log in logging_outputs:
            if _ROWS in log:
                metrics.log_concat_tensor(_ROWS, log[_ROWS])
        if num_classes:
            names = metric_names(num_classes=num_classes, is_regression=num_classes == 1)
            for priority, name in enumerate(names, start=11):
                metrics.log_derived(
                    name, lambda meters, name=name: _score(meters, num_classes, name), priority
                )

    def logging_outputs_can_be_summed(self) -> bool:
        """In training: sums and counts. In validation the rows of all ranks are put one after another."""
        return self.training


def _score(meters: MetersDict, num_classes: int, name: str) -> float:
    predictions_N, targets_N = meters[_ROWS].tensor.numpy().T
    if num_classes == 1:
        return round(regression_scores(predictions_N, targets_N)[name], 3)
    scores = classification_scores(predictions_N, targets_N, num_classes=num_classes)
    return round(scores[name], 3)
