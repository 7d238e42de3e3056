"""Extractive question answering: is an answer's first, or last, token here? The head, its loss, its scores.

From a row's logits to its likeliest answers, and from the rows of a question to the question's.

Shapes: B rows, T length, D width, K likeliest spans of a row, N rows of the whole set.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from torch import Tensor, nn

from fairseq_masking.compat.options import option
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.criterion import RowsCriterion, Scorer
from fairseq_masking.finetuning.metrics import ScoredAnswer, answer_scores, squad_scores
from fairseq_masking.methods.base.masked_tokens import Loss
from fairseq_masking.modules.encoder import init_bert_weights

__all__ = [
    "Candidates", "SpanHead", "Spans", "SquadCriterion", "SquadCriterionConfig", "inside_window",
    "likeliest_spans", "merge", "row_candidates", "score_rows", "scored_answers", "span_losses",
]  # fmt: skip

_SCORES = ("f1", "exact", "f1_threshold", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")


class SpanHead(nn.Module):
    """A linear layer with two outputs a token (Devlin et al. 2019, section 4.2)."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(input_dim, 2)
        self.apply(init_bert_weights)

    def forward(self, features_BTD: Tensor, _: Tensor | None = None) -> Tensor:
        """Return the logits ``[B, T, 2]`` of first and last token."""
        return self.out_proj(features_BTD)


def span_losses(logits_BT2: Tensor, window_B2: Tensor, targets_B2: Tensor) -> Tensor:
    """Return each row's mean cross-entropy (nats) of first and last token, fp32 ``[B]``.

    The answer may be in ``window_B2``, the paragraph's columns, or at column 0 (<s>): ``targets_B2`` of no answer.
    """
    allowed_BT = inside_window(window_B2, logits_BT2.shape[1])
    allowed_BT[:, 0] = True
    logits_BT2 = logits_BT2.float().masked_fill(~allowed_BT[..., None], -math.inf)
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
        losses_B = span_losses(logits_BT2, sample["window"], sample["targets"])
        return losses_B.sum(), len(losses_B), {}

    def rows(self, logits_BT2: Tensor, sample: dict[str, Any]) -> Tensor:
        answers = [reference.answers for reference in sample["references"]]
        return score_rows(row_candidates(logits_BT2, sample, self.cfg), answers)

    @staticmethod
    def scorer(log: dict[str, Any]) -> Scorer:
        """There is none of questions of a kind that the set does not have."""
        return _SCORES, lambda rows_N7: squad_scores(scored_answers(rows_N7))


class Spans(NamedTuple):
    """The likeliest spans of each row, best first."""

    scores_BK: Tensor  # sum of the logits of first and last token; -inf where a row has fewer spans
    starts_BK: Tensor  # column of the first token
    ends_BK: Tensor  # column of the last token
    null_B: Tensor  # score of <s>, that is of no answer


class Candidates(NamedTuple):
    """A question's likeliest answers from one of its rows, or from all."""

    question: int  # its number in the split
    answers: list[tuple[str, float]]  # (text, score), best first
    null: float  # score of no answer

    @property
    def best(self) -> tuple[str, float]:
        """The likeliest answer with its score; "" where there is none."""
        return self.answers[0] if self.answers else ("", -math.inf)


def inside_window(window_B2: Tensor, length: int) -> Tensor:
    """Return bool ``[B, length]``: whether a column is in the row's stretch ``window_B2`` (first, end)."""
    columns = torch.arange(length, device=window_B2.device)
    return (columns >= window_B2[:, :1]) & (columns < window_B2[:, 1:])


def likeliest_spans(logits_BT2: Tensor, window_B2: Tensor, *, n_best: int, max_tokens: int) -> Spans:
    """Return the spans inside the paragraph with the highest scores.

    They are searched, as in Devlin et al.'s and the release's scripts, among the ``n_best`` likeliest first
    and the ``n_best`` likeliest last tokens of a row.
    """
    logits_BT2 = logits_BT2.float()
    inside_BT = inside_window(window_B2, logits_BT2.shape[1])
    allowed_BT2 = logits_BT2.masked_fill(~inside_BT[..., None], -math.inf)
    k = min(n_best, logits_BT2.shape[1])
    firsts, lasts = allowed_BT2[..., 0].topk(k), allowed_BT2[..., 1].topk(k)
    length_Bkk = lasts.indices[:, None, :] - firsts.indices[:, :, None] + 1
    score_Bkk = firsts.values[:, :, None] + lasts.values[:, None, :]
    score_Bkk = score_Bkk.masked_fill((length_Bkk < 1) | (length_Bkk > max_tokens), -math.inf)
    best = score_Bkk.flatten(1).topk(k)
    return Spans(
        best.values,
        firsts.indices.gather(1, best.indices // k),
        lasts.indices.gather(1, best.indices % k),
        logits_BT2[:, 0].sum(-1),
    )


def row_candidates(logits_BT2: Tensor, batch: Mapping[str, Any], search: Any) -> list[Candidates]:
    """Return the texts of each row's likeliest spans; ``search`` is a ``SquadCriterionConfig``."""
    spans = likeliest_spans(logits_BT2, batch["window"], n_best=search.n_best, max_tokens=search.max_answer_tokens)
    rows = []
    for reference, *found, null in zip(batch["references"], *(value.tolist() for value in spans), strict=True):
        places = [place for place in zip(*found, strict=True) if place[0] > -math.inf]
        answers = [(reference.text(start, end), value) for value, start, end in places]
        rows.append(Candidates(reference.question, answers, null))
    return rows


def merge(rows: Iterable[Candidates], n_best: int) -> list[Candidates]:
    """Return each question's ``n_best`` answers from all its rows, and the lowest of their null scores."""
    by_question: dict[int, list[Candidates]] = {}
    for row in rows:
        by_question.setdefault(row.question, []).append(row)
    merged = []
    for question, group in sorted(by_question.items()):
        answers = sorted(chain(*(row.answers for row in group)), key=lambda answer: -answer[1])
        merged.append(Candidates(question, answers[:n_best], min(row.null for row in group)))
    return merged


def score_rows(rows: Sequence[Candidates], answers: Sequence[Sequence[str]]) -> Tensor:
    """Return what a question's score needs of each row, as numbers that can be gathered over ranks.

    float64 ``[B, 7]``: question, score of the likeliest answer, null score, exact match and F1 of that answer, whether
    the question has an answer (``answers`` are those of each row's), whether there is a text.
    """
    table = [
        [row.question, row.best[1], row.null, *answer_scores(gold, row.best[0]), bool(gold), bool(row.best[0])]
        for row, gold in zip(rows, answers, strict=True)
    ]
    return torch.tensor(table, dtype=torch.float64)


def scored_answers(rows_N7: Tensor) -> list[ScoredAnswer]:
    """Return each question's scored answer, its likeliest in all its rows, from ``score_rows``."""
    best: dict[float, list[float]] = {}
    null: dict[float, float] = {}
    for row in rows_N7.tolist():
        question = row[0]
        best[question] = max(best.get(question, row), row, key=itemgetter(1))
        null[question] = min(row[2], null.get(question, math.inf))
    return [
        ScoredAnswer(exact, f1, null[question] - value, bool(has_answer), bool(is_text))
        for question, value, _, exact, f1, has_answer, is_text in map(best.get, sorted(best))
    ]
