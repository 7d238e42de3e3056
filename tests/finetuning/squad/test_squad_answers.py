"""Likeliest spans against a search through all of them; questions put together from their rows."""

import itertools
import math

import numpy as np
import pytest
import torch

from fairseq_masking.finetuning.metrics import ScoredAnswer
from fairseq_masking.finetuning.squad.criterion import (
    Candidates,
    SquadCriterionConfig,
    likeliest_spans,
    merge,
    row_candidates,
    score_rows,
    scored_answers,
    span_losses,
)
from fairseq_masking.finetuning.squad.task import Reference


def brute_force(logits, window, max_tokens):
    found = []
    for start, end in itertools.product(range(*window), repeat=2):
        if start <= end < start + max_tokens:
            found.append((float(logits[start, 0] + logits[end, 1]), start, end))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("max_tokens", [1, 3, 30])
def test_spans_against_all_spans(max_tokens: int, device: torch.device) -> None:
    logits = torch.randn(4, 12, 2, generator=torch.Generator().manual_seed(1)).to(device)
    logits[:, :3] += 50  # the question's columns must not be looked at
    window = torch.tensor([[4, 12], [3, 11], [5, 6], [4, 9]], device=device)
    spans = likeliest_spans(logits, window, n_best=12, max_tokens=max_tokens)
    for row in range(4):
        expected = brute_force(logits[row], window[row].tolist(), max_tokens)[:12]
        values = [value for value in spans.scores_BK[row].tolist() if value > -math.inf]
        assert values == pytest.approx([value for value, _, _ in expected], abs=1e-5)
        places = list(zip(spans.starts_BK[row].tolist(), spans.ends_BK[row].tolist(), strict=True))
        assert places[: len(expected)] == [(start, end) for _, start, end in expected]
        assert spans.null_B[row].item() == pytest.approx(float(logits[row, 0].sum()))


def test_n_best_limits_firsts_and_lasts() -> None:
    logits = torch.zeros(1, 6, 2)
    logits[0, 2:, 0] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    logits[0, 2:, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    spans = likeliest_spans(logits, torch.tensor([[2, 6]]), n_best=1, max_tokens=30)
    assert spans.starts_BK.tolist() == [[2]] and spans.ends_BK.tolist() == [[5]]
    assert likeliest_spans(logits, torch.tensor([[2, 6]]), n_best=1, max_tokens=3).scores_BK == -math.inf


def test_losses_by_hand(device: torch.device) -> None:
    logits = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(2)).to(device)
    window = torch.tensor([[3, 6], [2, 5], [3, 7]], device=device)
    targets = torch.tensor([[4, 5], [0, 0], [3, 3]], device=device)
    expected = []
    for row in range(3):
        allowed = [0, *range(*window[row].tolist())]
        first, last = (
            torch.logsumexp(logits[row, allowed, side], 0) - logits[row, targets[row, side], side] for side in (0, 1)
        )
        expected.append((first + last) / 2)
    torch.testing.assert_close(span_losses(logits, window, targets), torch.stack(expected))


def reference(question: int, answers: tuple[str, ...], first_column: int = 3) -> Reference:
    offsets = np.array([[0, 3], [4, 9], [9, 10], [11, 14]], dtype=np.int32)
    return Reference(question, "The river, big one", offsets, first_column, answers)


def test_texts_are_cut_out_of_the_paragraph() -> None:
    assert reference(0, ()).text(3, 4) == "The river"
    assert reference(0, (), first_column=9).text(10, 12) == "river, big"
    logits = torch.zeros(1, 8, 2)
    logits[0, 4] = 5
    batch = {"window": torch.tensor([[3, 7]]), "references": [reference(7, ())]}
    (found,) = row_candidates(logits, batch, SquadCriterionConfig(n_best=2))
    assert found.question == 7 and found.answers[0] == ("river", 10.0) and found.null == 0


ROWS = [
    (Candidates(2, [("river", 3.0), ("big", 1.0)], 5.0), ["river"]),
    (Candidates(1, [("The", 9.0)], 1.0), []),
    (Candidates(2, [("The river", 4.0)], 2.0), ["river"]),
    (Candidates(2, [], 8.0), ["river"]),
    (Candidates(0, [], 0.5), ["x"]),
]


def test_a_question_is_put_together_from_its_rows() -> None:
    merged = merge([row for row, _ in ROWS], n_best=2)
    assert merged == [
        Candidates(0, [], 0.5),
        Candidates(1, [("The", 9.0)], 1.0),
        Candidates(2, [("The river", 4.0), ("river", 3.0)], 2.0),
    ]
    table = score_rows([row for row, _ in ROWS], [answers for _, answers in ROWS])
    expected = [
        ScoredAnswer(0, 0, math.inf, True, False),
        ScoredAnswer(1, 1, -8.0, False, True),
        ScoredAnswer(1, 1, -2.0, True, True),
    ]
    assert scored_answers(table) == expected
    assert scored_answers(table.flip(0)) == expected  # in whatever order the ranks deliver them
