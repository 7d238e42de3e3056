"""Which questions of a SQuAD file are used, and with which answers: where scores count, as officially."""

import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.squad.prepare import Answer, SquadSplit, read_squad

CONTEXT = "Paris is the capital of France."
PARIS, MOVED = {"text": "Paris", "answer_start": 0}, {"text": "France", "answer_start": 3}
QUESTIONS: dict[str, dict[str, Any]] = {
    "good": {"answers": [PARIS]},
    "without": {"answers": []},
    "impossible": {"answers": [], "is_impossible": True},
    "plausible": {"answers": [PARIS], "is_impossible": True},
    "moved": {"answers": [PARIS, MOVED]},
    "nowhere": {"answers": [{"text": "Paris"}]},
    "blank": {"answers": [{"text": " ", "answer_start": 5}]},
    "unasked": {"answers": [PARIS], "question": " "},
    "form": {"answers": ["Paris"]},
    "number": {"answers": [{"text": 7, "answer_start": 0}]},
}


def read(tmp_path: Path, split: str, context: str = CONTEXT) -> SquadSplit:
    records = [{"id": name, "question": "Where?", **record} for name, record in QUESTIONS.items()]
    path = tmp_path / f"{split}.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": records}]}]}))
    return read_squad(path, split)


def test_training_needs_each_answer_in_its_place(tmp_path: Path) -> None:
    found = read(tmp_path, "train")
    assert {question.id: len(question.answers) for question in found.questions} == {
        "good": 1,
        "without": 0,
        "impossible": 0,
        "plausible": 0,
    }
    assert found.faults.kinds == {
        "answer that does not stand at answer_start": 3,
        "empty question": 1,
        "answers of another form": 2,
    }


def test_validation_keeps_what_the_official_script_scores(tmp_path: Path) -> None:
    """evaluate-v2.0.py: has_answer is bool(answers); of an answer it reads the text alone."""
    found = read(tmp_path, "valid")
    expected = {
        name: [answer["text"] for answer in record["answers"]]
        for name, record in QUESTIONS.items()
        if name not in ("form", "number")  # the script ends in a traceback
    }
    assert {q.id: [answer.text for answer in q.answers] for q in found.questions} == expected
    answers = {question.id: question.answers for question in found.questions}
    assert answers["moved"] == (Answer("Paris", 0), Answer("France", None))
    assert len(read(tmp_path, "valid", context="").questions) == len(expected)


def test_a_test_set_keeps_every_question(tmp_path: Path) -> None:
    assert [(q.id, q.answers) for q in read(tmp_path, "test").questions] == [(name, ()) for name in QUESTIONS]


def test_half_a_pair_of_surrogates_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="surrogates not allowed") as caught:
        read(tmp_path, "train", context="a \ud800")
    assert "\n" not in str(caught.value)
