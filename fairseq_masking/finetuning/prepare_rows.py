"""Labelled texts to the layout of fairseq's ``sentence_prediction`` task.

    input0/SPLIT.bin, .idx, dict.txt    the first text, </s> at its end
    input1/...                          the second one where there are two
    label/SPLIT.bin, .idx, dict.txt     the class; dict.txt lists the names in the order of their numbers
    label/SPLIT.label                   or the score as text, of 0 to 1
    ids/SPLIT.txt                       of a test set without labels: what a submission calls each row

fairseq puts the two together with ``--init-token 0 --separator-token 2``: <s> a </s></s> b </s>. Texts are
cut so that this fits ``max_length``, the longer one of two first.
"""

from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary

from fairseq_masking.corpus.encoding import ArrayWriter, TextEncoder
from fairseq_masking.corpus.manifest import DICTIONARY_FILE
from fairseq_masking.corpus.workers import map_in_batches
from fairseq_masking.finetuning.glue import SCORE_SCALE
from fairseq_masking.finetuning.rows import Row, read_task, subsample

__all__ = ["class_names", "truncated_lengths", "write_rows"]

_BATCH_ROWS = 256


def class_names(data: Path) -> tuple[str, ...]:
    """Returns the classes of prepared data in the order of their numbers; none where there are none."""
    dictionary = data / "label" / DICTIONARY_FILE
    if not dictionary.exists():
        return ()
    lines = dictionary.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 may be in a name
    return tuple(line.rpartition(" ")[0] for line in lines if line)


def write_rows(
    task: str,
    files: dict[str, Path],
    folder: Path,
    encoder: TextEncoder,
    *,
    max_length: int,
    max_train_rows: int | None,
    seed: int,
    workers: int,
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Writes all splits of a task.

    Args:
        max_length: tokens of a row, <s> and </s> included.
        max_train_rows: keep so many training rows, drawn by ``seed``.

    Returns:
        split -> its counts, and a line for each row that was not used.
    """
    splits, labels = read_task(task, files)
    counts: dict[str, dict[str, int]] = {}
    log: list[str] = []
    for split, read in splits.items():
        rows = subsample(read.rows, max_train_rows, seed) if split == "train" else read.rows
        counts[split] = {
            **_write_split(split, rows, labels, folder, encoder, max_length, workers),
            **read.faults.counts(),
        }
        log += read.faults.lines
    for place in sorted(folder.glob("input?")):
        encoder.dictionary.save(str(place / DICTIONARY_FILE))
    if labels:
        _label_dictionary(labels, splits["train"].rows).save(str(folder / "label" / DICTIONARY_FILE))
    return counts, log


def truncated_lengths(lengths: tuple[int, ...], max_length: int) -> tuple[int, ...]:
    """Returns how many tokens of each text to keep, so that all fit with their special tokens.

    The longest is cut until it is no longer than the next one, and so on.
    """
    room = max_length - 2 * len(lengths)  # <s> a </s>, or <s> a </s></s> b </s>
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return (room,)
    first, second = lengths
    half = room // 2
    if second <= half:
        return room - second, second
    if first <= room - half:
        return first, room - first
    return room - half, half


def _write_split(
    split: str,
    rows: list[Row],
    labels: tuple[str, ...],
    folder: Path,
    encoder: TextEncoder,
    max_length: int,
    workers: int,
) -> dict[str, int]:
    counts = Counter[str](rows=0, tokens=0, unknown=0, truncated=0)
    encode = partial(_encode, encoder, max_length)
    eos, unk = encoder.dictionary.eos(), encoder.dictionary.unk()
    with ExitStack() as stack:
        texts = [
            stack.enter_context(ArrayWriter(folder / f"input{number}" / split))
            for number in range(len(rows[0].texts))
        ]
        for ids, truncated in map_in_batches(encode, rows, size=_BATCH_ROWS, workers=workers):
            for writer, part in zip(texts, ids, strict=True):
                writer.add([*part, eos])
                counts["tokens"] += len(part) + 1
                counts["unknown"] += part.count(unk)
            counts["rows"] += 1
            counts["truncated"] += truncated
    if all(row.label is not None for row in rows):
        _write_labels([str(row.label) for row in rows], labels, folder / "label" / split, eos)
    else:
        (folder / "ids").mkdir(exist_ok=True)
        lines = "".join(f"{row.id}\n" for row in rows)
        (folder / "ids" / f"{split}.txt").write_text(lines, encoding="utf-8")
    return dict(counts)


def _encode(encoder: TextEncoder, max_length: int, row: Row) -> tuple[list[list[int]], bool]:
    """Returns the ids of each text, and whether any were cut off."""
    ids = [encoder(text) for text in row.texts]
    lengths = tuple(map(len, ids))
    kept = truncated_lengths(lengths, max_length)
    return [part[:length] for part, length in zip(ids, kept, strict=True)], kept != lengths


def _write_labels(names: list[str], labels: tuple[str, ...], prefix: Path, eos: int) -> None:
    prefix.parent.mkdir(exist_ok=True)
    if not labels:
        scores = "".join(f"{float(name) / SCORE_SCALE!r}\n" for name in names)
        prefix.with_suffix(".label").write_text(scores, encoding="utf-8")
        return
    first = Dictionary().nspecial
    with ArrayWriter(prefix) as writer:
        for name in names:
            writer.add([first + labels.index(name), eos])


def _label_dictionary(labels: tuple[str, ...], rows: list[Row]) -> Any:
    """A dictionary that lists the classes in their order, with how often each was met in training."""
    dictionary, met = Dictionary(), Counter(row.label for row in rows)
    for label in labels:
        dictionary.add_symbol(label, n=met[label])
    return dictionary
