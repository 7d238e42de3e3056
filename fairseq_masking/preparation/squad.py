"""Reads SQuAD's JSON (1.1 and 2.0) and finds each answer's tokens in its tokenised paragraph.

Source: Rajpurkar et al. 2016, 2018.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fairseq_masking.errors import UserError
from fairseq_masking.preparation.faults import FaultLog, FaultyRow
from fairseq_masking.preparation.reading import hash_file
from fairseq_masking.preparation.tokenizers import Offsets

__all__ = ["Answer", "Question", "SquadSplit", "answer_tokens", "read_squad"]


class Answer(NamedTuple):
    """A stretch of a paragraph: its text and its first character."""

    text: str
    start: int


class Question(NamedTuple):
    """A question with its answers, none where the paragraph does not answer it."""

    id: str
    text: str
    paragraph: int
    answers: tuple[Answer, ...]


@dataclass
class SquadSplit:
    """A split.

    Attributes:
        faults: what was wrong with questions that cannot be used.
        paragraphs: their texts as they stand in the file.
        questions: those that can be used, in the file's order.
    """

    faults: FaultLog
    paragraphs: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def read_squad(path: Path, *, labelled: bool = True) -> SquadSplit:
    """Reads a file.

    Args:
        labelled: False for a test file: its questions have no answers, which says nothing.

    Raises:
        UserError: it is missing, no JSON, of another form, or has not one question that can be used.
    """
    hash_file(path)
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not in SQuAD's format ({type(error).__name__}: {str(error).splitlines()[0]}); "
            'it needs {"data": [{"paragraphs": [...]}]}'
        ) from error
    split, seen = SquadSplit(FaultLog(path)), set[str]()
    for number, paragraph in enumerate(paragraphs):
        context = paragraph.get("context") if isinstance(paragraph, dict) else None
        split.paragraphs.append(context if isinstance(context, str) else "")
        for record in paragraph.get("qas", []) if isinstance(paragraph, dict) else [None]:
            try:
                split.questions.append(_question(record, number, split.paragraphs[-1], seen, labelled))
            except FaultyRow as fault:
                split.faults.add(f"paragraph {number}", fault, str(record))
    split.faults.check_left(split.questions, "question")
    return split


def answer_tokens(offsets: Sequence[Offsets], answer: Answer) -> tuple[int, int] | None:
    """Returns the first and the last token that share a character with an answer; None if no token does."""
    start, stop = answer.start, answer.start + len(answer.text)
    inside = [index for index, (begin, end) in enumerate(offsets) if begin < stop and end > start]
    return (inside[0], inside[-1]) if inside else None


def _question(record: Any, number: int, context: str, seen: set[str], labelled: bool) -> Question:
    if not context.strip():
        raise FaultyRow("paragraph without text")
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise FaultyRow("question without id")
    if not isinstance(record.get("question"), str) or not record["question"].strip():
        raise FaultyRow("empty question")
    if record["id"] in seen:
        raise FaultyRow("id that another question has")
    answers = () if record.get("is_impossible") or not labelled else _answers(record, context)
    seen.add(record["id"])
    return Question(record["id"], record["question"].strip(), number, answers)


def _answers(record: dict[str, Any], context: str) -> tuple[Answer, ...]:
    try:
        answers = tuple(Answer(answer["text"], answer["answer_start"]) for answer in record["answers"])
    except (KeyError, TypeError):
        raise FaultyRow("answers of another form") from None
    if not answers:
        raise FaultyRow("answerable question without answer")
    for text, start in answers:
        if not isinstance(text, str) or not isinstance(start, int) or not text.strip():
            raise FaultyRow("answers of another form")
        if start < 0 or context[start : start + len(text)] != text:
            raise FaultyRow("answer that does not stand at answer_start")
    return answers
