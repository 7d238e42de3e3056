"""SQuAD's scores against cases worked out by hand, and against the official script's own procedure."""

import json
import random

import pytest

from fairseq_masking.finetuning.metrics import (
    ScoredAnswer,
    answer_scores,
    best_threshold,
    exact_match,
    normalize_answer,
    squad_scores,
    word_f1,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles", "beatles"),
        ("a theatre, an Anthem; the an", "theatre anthem"),
        ("rock'n'roll (1,000)", "rocknroll 1000"),
        ("in a-side", "in aside"),  # punctuation goes before articles
        ("The", ""),
        ("“The” end", "“ ” end"),  # only ASCII punctuation counts
        ("é Á", "é á"),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("answers", "prediction", "exact", "overlap"),
    [
        (["the Café"], "Café", 1, 1),
        (["10th and 11th centuries"], "the 10th century", 0, 2 * 0.5 * 0.25 / 0.75),
        (["10th century", "in 1066"], "1066", 0, 2 / 3),
        (["in 1066", "1066."], "1066", 1, 1),
        (["no no no"], "no no", 0, 0.8),  # words are counted as often as they occur
        (["France"], "", 0, 0),
        ([], "", 1, 1),
        ([], "France", 0, 0),
        ([], "the", 1, 1),  # nothing is left of it
        (["the", "a"], "", 1, 1),  # answers of which nothing is left mean no answer
        (["the", "France"], "", 0, 0),
        (["the", "France"], "the France", 1, 1),
    ],
)
def test_score(answers: list[str], prediction: str, exact: float, overlap: float) -> None:
    assert answer_scores(answers, prediction) == (exact, pytest.approx(overlap))


def test_a_side_without_words() -> None:
    assert word_f1("the", "an") == 1 == exact_match("the", "an")
    assert word_f1("the", "it") == 0 == word_f1("it", "")


def answer(exact: float, margin: float, *, has_answer: bool = True, f: float | None = None) -> ScoredAnswer:
    return ScoredAnswer(exact, exact if f is None else f, margin, has_answer, True)


def test_best_threshold_by_hand() -> None:
    answers = [
        answer(1, -5),
        answer(0, -4, has_answer=False),
        answer(0, -3, f=0.6),
        answer(1, -2),
        answer(0, 1, has_answer=False),
        answer(0, 2, f=0.2),
    ]
    # nothing: 2 of 6; up to -5: 3; -4: 2; -3: 2 (2.6); -2: 3 (3.6); 1: 2 (2.6); 2: 2 (2.8)
    scores = squad_scores(answers)
    assert scores["exact"] == pytest.approx(100 * 3 / 6) and scores["exact_threshold"] == -5
    assert scores["f1"] == pytest.approx(100 * 3.6 / 6) and scores["f1_threshold"] == -2
    assert scores["HasAns_exact"] == pytest.approx(100 * 2 / 4)
    assert scores["HasAns_f1"] == pytest.approx(100 * 2.6 / 4)
    assert scores["NoAns_exact"] == scores["NoAns_f1"] == pytest.approx(100 * 1 / 2)


def test_answering_nothing_may_be_best() -> None:
    answers = [answer(0, 3.0), answer(0, 4.0, has_answer=False)]
    scores = squad_scores(answers)
    assert scores["f1"] == 50 and scores["f1_threshold"] < 3.0
    assert scores["NoAns_f1"] == 100 and scores["HasAns_f1"] == 0


def test_without_unanswerable_questions() -> None:
    scores = squad_scores([answer(1, 2.0), answer(0, 1.0)])
    assert scores["f1"] == 50 and scores["HasAns_f1"] == 50
    assert not [name for name in scores if name.startswith("NoAns")]
    json.dumps(scores, allow_nan=False)


def official_best_threshold(preds, values, na_probs, has_answer):
    """find_best_thresh of evaluate-v2.0.py."""
    cur = sum(1 for qid in has_answer if not has_answer[qid])
    best, threshold = cur, 0.0
    for qid in sorted(na_probs, key=lambda qid: na_probs[qid]):
        if has_answer[qid]:
            diff = values[qid]
        else:
            diff = -1 if preds[qid] else 0
        cur += diff
        if cur > best:
            best, threshold = cur, na_probs[qid]
    return 100.0 * best / len(values), threshold


@pytest.mark.parametrize("seed", range(20))
def test_it_does_what_the_official_script_does(seed: int) -> None:
    rng = random.Random(seed)
    gold = {q: rng.choice([[], ["a cat"], ["big dog", "the dog"], ["the"]]) for q in range(30)}
    preds = {q: rng.choice(["", "cat", "the", "big  dog.", "dog cat"]) for q in gold}
    margins = {q: rng.uniform(0.1, 1) for q in gold}
    raw = {q: answer_scores(gold[q], preds[q]) for q in gold}
    answers = [ScoredAnswer(*raw[q], margins[q], bool(gold[q]), bool(preds[q])) for q in gold]
    has_answer = {q: bool(gold[q]) for q in gold}
    for place, name in enumerate(("exact", "f1")):
        values = {q: raw[q][place] for q in gold}
        expected, threshold = official_best_threshold(preds, values, margins, has_answer)
        ours, ours_threshold = best_threshold(answers, [getattr(found, name) for found in answers])
        assert ours == pytest.approx(expected, abs=1e-9)
        assert ours_threshold == threshold or threshold == 0.0
