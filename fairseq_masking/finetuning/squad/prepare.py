"""SQuAD's JSON (1.1 and 2.0) to the layout of our ``squad`` task: memory-mapped int32, an item a paragraph or
question.

    SPLIT.paragraphs    ids
    SPLIT.offsets       first character and the one after the last of each token, in the paragraph's own text
    SPLIT.questions     ids
    SPLIT.spans         paragraph, first and last token of the first answer (-1, -1: none, or no token of it)
    SPLIT.json          texts of the paragraphs; id and all answers of each question

Source: Rajpurkar et al. 2016, 2018.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fairseq_masking.corpus.encoding import ArrayWriter, TextEncoder
from fairseq_masking.corpus.workers import map_in_batches
from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import hash_file
from fairseq_masking.finetuning.rows import FaultLog, FaultyRow
from fairseq_masking.tokenizers import Offsets

__all__ = ["Answer", "Question", "SquadSplit", "answer_tokens", "read_squad", "write_squad"]

_NO_ANSWER = (-1, -1)
_BATCH = 64


class Answer(NamedTuple):
    """A stretch of a paragraph: its text and its first character, None where it does not stand there."""

    text: str
    start: int | None


class Question(NamedTuple):
    """A question with its answers, none where the paragraph does not answer it."""

    id: str
    text: str
    paragraph: int
    answers: tuple[Answer, ...]


@dataclass
class SquadSplit:
    faults: FaultLog  # what was wrong with questions that cannot be used
    paragraphs: list[str] = field(default_factory=list)  # their texts as they stand in the file
    questions: list[Question] = field(default_factory=list)  # those that can be used, in the file's order


def write_squad(
    files: dict[str, Path], folder: Path, encoder: TextEncoder, *, workers: int
) -> Iterator[tuple[str, dict[str, int], FaultLog]]:
    """Write all splits; yield the name, the counts and the faults of each."""
    for split, path in files.items():
        read = read_squad(path, split)
        yield split, _write_split(split, read, folder, encoder, workers), read.faults


def read_squad(path: Path, split: str) -> SquadSplit:
    """Read a file.

    The official script wants a prediction of every question and compares it with the answers' texts. So an
    empty text, or an answer that does not stand where it should, makes a question faulty in training alone. Questions
    of a "test" split have no answers, which says nothing.
    """
    hash_file(path)
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        json.dumps(paragraphs, ensure_ascii=False).encode()  # a lone surrogate cannot be written
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not in SQuAD's format ({type(error).__name__}: {first_line(error)}); "
            'it needs {"data": [{"paragraphs": [...]}]}'
        ) from error
    read, seen = SquadSplit(FaultLog(path)), set[str]()
    for number, paragraph in enumerate(paragraphs):
        context = paragraph.get("context") if isinstance(paragraph, dict) else None
        read.paragraphs.append(context if isinstance(context, str) else "")
        for record in paragraph.get("qas", []) if isinstance(paragraph, dict) else [None]:
            try:
                read.questions.append(_question(record, number, read.paragraphs[-1], seen, split))
            except FaultyRow as fault:
                read.faults.add(f"paragraph {number}", fault, str(record))
    read.faults.check_left(read.questions, "question")
    return read


def answer_tokens(offsets: Sequence[Offsets], answer: Answer) -> tuple[int, int] | None:
    """Return the first and the last token that share a character with an answer; None if no token does."""
    if answer.start is None:
        return None
    start, stop = answer.start, answer.start + len(answer.text)
    inside = [index for index, (begin, end) in enumerate(offsets) if begin < stop and end > start]
    return (inside[0], inside[-1]) if inside else None


def _question(record: Any, number: int, context: str, seen: set[str], split: str) -> Question:
    is_training = split == "train"
    if is_training and not context.strip():
        raise FaultyRow("paragraph without text")
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise FaultyRow("question without id")
    asked = record["question"].strip() if isinstance(record.get("question"), str) else ""
    if is_training and not asked:
        raise FaultyRow("empty question")
    if record["id"] in seen:
        raise FaultyRow("id that another question has")
    is_open = split == "test" or (is_training and record.get("is_impossible"))
    answers = () if is_open else _answers(record, context)
    if is_training and any(answer.start is None for answer in answers):
        raise FaultyRow("answer that does not stand at answer_start")
    seen.add(record["id"])
    return Question(record["id"], asked, number, answers)


def _answers(record: dict[str, Any], context: str) -> tuple[Answer, ...]:
    """None means no answer, as in the official script."""
    given = record.get("answers")
    if given is None and record.get("is_impossible"):
        return ()
    try:
        return tuple(_answer(answer["text"], answer.get("answer_start"), context) for answer in given)
    except (AttributeError, KeyError, TypeError):
        raise FaultyRow("answers of another form") from None


def _answer(text: str, start: Any, context: str) -> Answer:
    stands = bool(text.strip()) and isinstance(start, int) and start >= 0 and context.startswith(text, start)
    return Answer(text, start if stands else None)


def _write_split(split: str, read: SquadSplit, folder: Path, encoder: TextEncoder, workers: int) -> dict[str, int]:
    def writer(part: str) -> ArrayWriter:
        return ArrayWriter(folder / f"{split}.{part}")

    mapped = partial(map_in_batches, size=_BATCH, workers=workers)
    tokens = Counter[int]()
    offsets: list[list[Offsets]] = []
    with writer("paragraphs") as paragraphs, writer("offsets") as places:
        for ids, stretches in mapped(encoder.with_offsets, read.paragraphs):
            paragraphs.add(ids)
            places.add(stretches)
            offsets.append(stretches)
            tokens.update(ids)
    found = _find_spans(read, offsets, is_training=split == "train")
    read.faults.check_left(found, "question")
    encoded = mapped(encoder, [question.text for question, _ in found])
    with writer("questions") as questions, writer("spans") as spans:
        for ids, (question, span) in zip(encoded, found, strict=True):
            questions.add(ids)
            spans.add([question.paragraph, *span])
            tokens.update(ids)
    answers = [{"id": each.id, "answers": [answer.text for answer in each.answers]} for each, _ in found]
    record = {"paragraphs": read.paragraphs, "questions": answers}
    (folder / f"{split}.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    counts = {"rows": len(found), "tokens": tokens.total(), "unknown": tokens[encoder.dictionary.unk()]}
    encoder.check_unknown(counts["unknown"], counts["tokens"], read.paragraphs, f"the {split} paragraphs")
    counts["paragraphs"] = len(read.paragraphs)
    if split != "test":
        counts["without answer"] = sum(not question.answers for question, _ in found)
    return counts


def _find_spans(
    read: SquadSplit, offsets: Sequence[Sequence[Offsets]], *, is_training: bool
) -> list[tuple[Question, tuple[int, int]]]:
    """Pair each question with the tokens of its first answer; without any it is faulty in training."""
    found = []
    for question in read.questions:
        first = question.answers[:1]
        span = answer_tokens(offsets[question.paragraph], *first) if first else _NO_ANSWER
        if span is None and is_training:
            fault = FaultyRow("answer without a token of its own")
            read.faults.add(f"paragraph {question.paragraph}", fault, question.id)
        else:
            found.append((question, span or _NO_ANSWER))  # without a token the text alone is scored
    return found
