"""SQuAD to the layout of our ``squad`` task. Arrays are memory-mapped int32, an item a paragraph or question.

SPLIT.paragraphs    ids
SPLIT.offsets       first character and the one after the last of each token, in the paragraph's own text
SPLIT.questions     ids
SPLIT.spans         paragraph, first and last token of the first answer (-1, -1: no answer, or no token of it)
SPLIT.json          texts of the paragraphs; id and all answers of each question
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.corpus.encoding import ArrayWriter, TextEncoder
from fairseq_masking.corpus.workers import map_in_batches
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.faults import FaultyRow
from fairseq_masking.finetuning.squad.reading import Question, SquadSplit, answer_tokens, read_squad
from fairseq_masking.tokenizers import Offsets

__all__ = ["SQUAD", "files_of_squad", "write_squad"]

SQUAD = "squad"
_PATTERNS = {"train": "train*.json", "valid": "dev*.json", "test": "test*.json"}
_NO_ANSWER = (-1, -1)
_BATCH = 64


def files_of_squad(folder: Path) -> dict[str, Path]:
    """Returns split -> file; the test file may be missing.

    Raises:
        UserError: another one is missing, or there are several.
    """
    files = {}
    for split, pattern in _PATTERNS.items():
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            files[split] = found[0]
        elif found or split != "test":
            names = ", ".join(path.name for path in found) or "no file"
            raise UserError(f"{folder / pattern}: {names}; give a folder with one such file")
    return files


def write_squad(
    files: dict[str, Path], folder: Path, encoder: TextEncoder, *, workers: int
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Writes all splits.

    Returns:
        split -> its counts, and a line for each question that was not used.
    """
    counts: dict[str, dict[str, int]] = {}
    log: list[str] = []
    for split, path in files.items():
        read = read_squad(path, split)
        counts[split] = {
            **_write_split(split, read, folder, encoder, workers),
            **read.faults.counts(),
        }
        log += read.faults.lines
    return counts, log


def _write_split(
    split: str, read: SquadSplit, folder: Path, encoder: TextEncoder, workers: int
) -> dict[str, int]:
    tokens = Counter[int]()
    offsets: list[list[Offsets]] = []
    with (
        ArrayWriter(folder / f"{split}.paragraphs") as paragraphs,
        ArrayWriter(folder / f"{split}.offsets") as places,
    ):
        for ids, stretches in map_in_batches(
            encoder.with_offsets, read.paragraphs, size=_BATCH, workers=workers
        ):
            paragraphs.add(ids)
            places.add(stretches)
            offsets.append(stretches)
            tokens.update(ids)
    spans = _find_spans(read, offsets, is_training=split == "train")
    read.faults.check_left(spans, "question")
    with ArrayWriter(folder / f"{split}.questions") as questions:
        texts = [question.text for question, _ in spans]
        for ids in map_in_batches(encoder, texts, size=_BATCH, workers=workers):
            questions.add(ids)
            tokens.update(ids)
    with ArrayWriter(folder / f"{split}.spans") as writer:
        for question, span in spans:
            writer.add([question.paragraph, *span])
    record = {
        "paragraphs": read.paragraphs,
        "questions": [
            {"id": question.id, "answers": [answer.text for answer in question.answers]}
            for question, _ in spans
        ],
    }
    (folder / f"{split}.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    counts = {
        "rows": len(spans),
        "tokens": tokens.total(),
        "unknown": tokens[encoder.dictionary.unk()],
        "paragraphs": len(read.paragraphs),
    }
    if split != "test":
        counts["without answer"] = sum(not question.answers for question, _ in spans)
    return counts


def _find_spans(
    read: SquadSplit, offsets: Sequence[Sequence[Offsets]], *, is_training: bool
) -> list[tuple[Question, tuple[int, int]]]:
    """Pairs each question with the tokens of its first answer; without any it is faulty in training."""
    spans = []
    for question in read.questions:
        span: tuple[int, int] | None = _NO_ANSWER
        if question.answers:
            span = answer_tokens(offsets[question.paragraph], question.answers[0])
        if span is None and not is_training:
            span = _NO_ANSWER  # the text alone is scored
        if span is None:
            fault = FaultyRow("answer without a token of its own")
            read.faults.add(f"paragraph {question.paragraph}", fault, question.id)
        else:
            spans.append((question, span))
    return spans
