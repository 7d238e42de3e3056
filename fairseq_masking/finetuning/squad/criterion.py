"""Extractive question answering: is an answer's first, or last, token here? The head, its loss, its scores.

Shapes: B rows, T length, D width, N rows of the whole set.
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.criterion import Loss, RowsCriterion, Scorer
from fairseq_masking.finetuning.metrics import squad_scores
from fairseq_masking.finetuning.squad.answers import inside_window, row_candidates, score_rows, scored_answers
from fairseq_masking.modules.encoder import init_bert_weights
from fairseq_masking.options import option

__all__ = ["SpanHead", "SquadCriterion", "SquadCriterionConfig", "span_losses"]

_SCORES = ("f1", "exact", "f1_threshold", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")


class SpanHead(nn.Module):
    """A linear layer with two outputs a token.

    Source: Devlin et al. 2019 (BERT), section 4.2.
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(input_dim, 2)
        self.apply(init_bert_weights)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Return the logits ``[B, T, 2]`` of first and last token."""
        return self.out_proj(features_BTD)


def span_losses(logits_BT2: Tensor, window_B2: Tensor, targets_B2: Tensor) -> Tensor:
    """Return each row's mean cross-entropy (nats) of first and last token, fp32 ``[B]``.

    Args:
        logits_BT2: of first and last token.
        window_B2: int64, the paragraph's columns (first, end): the answer may be there, or at column 0 (<s>).
        targets_B2: int64, columns of first and last token; 0 for no answer.
    """
    allowed_BT = inside_window(window_B2, logits_BT2.shape[1])
    allowed_BT[:, 0] = True
    logits_BT2 = logits_BT2.float().masked_fill(~allowed_BT[..., None], float("-inf"))
    return F.cross_entropy(logits_BT2, targets_B2, reduction="none").mean(-1)


@dataclass
class SquadCriterionConfig(FairseqDataclass):
    """How answers are looked for in validation."""

    n_best: int = option(20, "look for answers among so many first and so many last tokens")
    max_answer_tokens: int = option(30, "longest answer")


@register_criterion("squad", dataclass=SquadCriterionConfig)
class SquadCriterion(RowsCriterion):
    """Half the sum of both cross-entropies, over the paragraph's tokens and <s>; each row counts once.

    In validation each row also gives its likeliest answer, scored. The scores of the whole set, at the best
    null threshold, are computed from all rows together.
    """

    def __init__(self, cfg: SquadCriterionConfig, task: Any) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.head_name = getattr(task, "span_head", "")
        if not self.head_name:
            raise UserError("--criterion squad goes with --task squad")

    def loss(self, logits_BT2: Tensor, sample: dict[str, Any]) -> Loss:
        """Return the summed loss (nats)."""
        losses_B = span_losses(logits_BT2, sample["window"], sample["targets"])
        return losses_B.sum(), len(losses_B), {}

    def rows(self, logits_BT2: Tensor, sample: dict[str, Any]) -> Tensor:
        """Return each row's likeliest answer as ``answers.score_rows`` has it."""
        answers = [reference.answers for reference in sample["references"]]
        return score_rows(row_candidates(logits_BT2, sample, self.cfg), answers)

    @staticmethod
    def scorer(log: dict[str, Any]) -> Scorer:
        """Return SQuAD's scores; there is none of questions of a kind that the set does not have."""
        return _SCORES, lambda rows_N7: squad_scores(scored_answers(rows_N7))
