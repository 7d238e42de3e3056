r"""Reads labelled texts, row by row: GLUE's TSVs and {"text", "label"} JSONL; counts what it cannot use.

GLUE's TSVs know no quoting: a quotation mark is text. A row ends at "\n" or "\r\n" alone.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fairseq.data import Dictionary

from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file
from fairseq_masking.finetuning.glue import GLUE_TASKS, JSONL, SCORE_SCALE, SQUAD, TASKS, GlueTask

__all__ = ["FaultLog", "FaultyRow", "Row", "Rows", "files_of_task", "read_task", "subsample"]

_FILES = {  # the first pattern that a file of the folder has
    JSONL: {"train": ("train.jsonl",), "valid": ("dev.jsonl", "valid.jsonl"), "test": ("test.jsonl",)},
    SQUAD: {"train": ("train*.json",), "valid": ("dev*.json",), "test": ("test*.json",)},
    **{task.name: {split: (file,) for split, file in task.files.items()} for task in GLUE_TASKS.values()},
}
# GLUE's diagnostics, for models of MNLI: in its folder or, as GLUE gives them out, in one beside it.
_FILES["MNLI"]["test2"] = ("diagnostic.tsv", "AX.tsv", "../AX/AX.tsv", "../diagnostic/diagnostic.tsv")
Lines = Iterator[tuple[int, bytes]]

_BOM = b"\xef\xbb\xbf"
_SHOWN = 80
_UNREADABLE = {UnicodeDecodeError: "not UTF-8", UnicodeEncodeError: "lone surrogate"}


class Row(NamedTuple):
    """A labelled text or pair of texts."""

    texts: tuple[str, ...]  # one or two, stripped, none of them empty unless the row is of a test set without labels
    label: str | None  # class name, or score in a task of scores; None where the file has no labels
    id: str  # what a submission calls it


class FaultyRow(Exception):
    """Why a row cannot be used, in a few words."""


@dataclass
class FaultLog:
    """What was wrong with the rows of a file."""

    path: Path  # of the file
    kinds: Counter[str] = field(default_factory=Counter)  # what was wrong -> with how many rows
    lines: list[str] = field(default_factory=list)  # one for each of those rows

    def add(self, place: str | int, fault: FaultyRow, content: str) -> None:
        """Count a row at ``place`` of the file; the beginning of its content is shown."""
        self.kinds[str(fault)] += 1
        self.lines.append(f"{self.path.name}:{place}: {fault}: {content[:_SHOWN]!r}")

    def check_left(self, left: object, what: str, expected: str = "") -> None:
        """Make sure that some rows, each a ``what``, can be used; else say what the file is expected to hold."""
        if not left:
            faults = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
            raise UserError(f"{self.path} has no {what} that can be used ({faults or 'it is empty'}){expected}")

    def counts(self) -> dict[str, int]:
        kinds = {f"faulty: {kind}": count for kind, count in self.kinds.most_common()}
        return {"faulty": self.kinds.total(), **kinds}


@dataclass
class Rows:
    """A split: the rows that can be used, in the file's order, and what was wrong with the others."""

    faults: FaultLog
    rows: list[Row] = field(default_factory=list)


def files_of_task(task: str, folder: Path) -> dict[str, Path]:
    """Return split -> file; only test files may be missing."""
    if task not in _FILES:
        raise UserError(f"task {task!r} is none of {', '.join(TASKS)}")
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; give the one that holds {task}'s files")
    files = {}
    for split, patterns in _FILES[task].items():
        found = next((paths for name in patterns if (paths := sorted(folder.glob(name)))), [])
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"{folder / patterns[0]}: {names}; give a folder with one such file")
        if found:
            files[split] = found[0]
        elif not split.startswith("test"):
            raise UserError(f"{folder / patterns[0]} does not exist; give the folder of {task}'s files")
    return files


def read_task(task: str, files: dict[str, Path]) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """Read all splits of a task, of split -> file, the training split first.

    Beside split -> rows, return the names of the classes in the order of their numbers (none for scores).
    """
    splits: dict[str, Rows] = {}
    labels = GLUE_TASKS[task].labels if task in GLUE_TASKS else ()
    for split, path in files.items():
        hash_file(path)  # says what is wrong with a file that cannot be read
        rows = _read_jsonl(path, split, labels) if task == JSONL else _read_tsv(path, split, GLUE_TASKS[task])
        rows.faults.check_left(rows.rows, "row", _expected(task))
        if task == JSONL and split == "train":
            labels = tuple(sorted({str(row.label) for row in rows.rows}))
            _check_names(path, labels)
        splits[split] = rows
    return splits, labels


def _expected(task: str) -> str:
    if task == JSONL:
        return '; expected is a row a line: {"text": "...", "label": "..."}'
    form = GLUE_TASKS[task]
    columns = form.columns or (*form.sentences, form.label)
    labels = f"with {form.label} of {', '.join(form.labels)}" if form.labels else f"with {form.label}s"
    return (
        f"; expected are GLUE's own columns, {', '.join(map(repr, columns))} with tabs between, {labels} (the library"
        " datasets writes others: give its texts and labels as --task jsonl)"
    )


def subsample(rows: list[Row], count: int | None, seed: int) -> list[Row]:
    """Return ``count`` of the rows in their order, drawn by ``seed``; all where there are no more."""
    if count is None or count >= len(rows):
        return rows
    kept = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    return [rows[index] for index in kept]


def _read_tsv(path: Path, split: str, task: GlueTask) -> Rows:
    labelled = not split.startswith("test")
    lines = _lines(path)
    columns = task.columns if labelled and task.columns else _header(path, lines)
    for name in (*task.sentences, *([task.label] if labelled else [])):
        if name not in columns:
            raise UserError(
                f"{path} has no column {name!r}, only {', '.join(map(repr, columns[:12]))[:200]}; "
                f"give {task.name}'s own {path.name}"
            )
    rows = Rows(FaultLog(path))

    def parse(line: str) -> Row:
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise FaultyRow(f"not {len(columns)} cells")
        named = dict(zip(columns, map(str.strip, cells), strict=True))
        texts = _not_empty(*(named[name] for name in task.sentences))
        label = _glue_label(task, named[task.label]) if labelled else None
        return Row(texts, label, named.get(task.row_id, str(len(rows.rows))))

    # A submission has a line for every row of a test set: what cannot be read is predicted from nothing.
    _collect(rows, lines, parse, instead=None if labelled else ("",) * len(task.sentences))
    return rows


def _read_jsonl(path: Path, split: str, labels: tuple[str, ...]) -> Rows:
    rows, is_test = Rows(FaultLog(path)), split.startswith("test")

    def parse(line: str) -> Row:
        try:
            record = json.loads(line)
        except ValueError:
            raise FaultyRow("no JSON") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise FaultyRow('no "text"')
        label = record.get("label")
        if not isinstance(label, str | int | float | None) or label != label or (label is None and not is_test):
            raise FaultyRow('no "label"')
        if isinstance(label, float):
            if not label.is_integer():
                raise UserError(
                    f"{path} has the label {label}: a JSONL task has classes, not scores. Give classes, as texts where"
                    " they look like that; scores of 0 to 5 of two texts are read from STS-B's files"
                )
            label = int(label)  # pandas writes 0 as 0.0 where a label is missing elsewhere in the column
        f"{record['text']}{label}".encode()  # JSON may hold half a pair: "\ud800"
        name = None if label is None else str(label).strip()
        if name is not None and labels and name not in labels:
            raise FaultyRow("unknown label")
        return Row(_not_empty(record["text"].strip()), name, str(len(rows.rows)))

    # As in a TSV: predictions have a line for every row of a test set, unless it has labels to be scored by.
    _collect(rows, _lines(path), parse, instead=("",) if is_test else None)
    if all(row.label is not None for row in rows.rows if any(row.texts)):
        rows.rows = [row for row in rows.rows if row.label is not None]
    return rows


def _check_names(path: Path, labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        raise UserError(f"{path} has the one label {labels[0]!r}; give data with two or more")
    special = Dictionary().symbols
    for label in labels:
        if label in special or "\n" in label or "\r" in label:
            raise UserError(
                f"{path} has the label {label!r}, which a dictionary cannot hold; rename it: one line,"
                f" none of {', '.join(special)}"
            )


def _collect(rows: Rows, lines: Lines, parse: Callable[[str], Row], *, instead: tuple[str, ...] | None) -> None:
    """Append each line's row, or ``instead``'s texts where it is faulty and these are given."""
    for number, raw in lines:
        try:
            rows.rows.append(parse(raw.decode("utf-8")))
        except (FaultyRow, UnicodeError) as error:
            fault = error if isinstance(error, FaultyRow) else FaultyRow(_UNREADABLE[type(error)])
            rows.faults.add(number, fault, raw.decode("utf-8", "replace"))
            if instead is not None:
                rows.rows.append(Row(instead, None, str(len(rows.rows))))


def _lines(path: Path) -> Lines:
    """Yield number (from 1) and content of the lines that are not blank."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            if line.strip():
                yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def _header(path: Path, lines: Lines) -> tuple[str, ...]:
    _, line = next(lines, (1, b""))
    if not line:
        raise UserError(f"{path} has only blank lines; give the task's own file")
    try:
        return tuple(name.strip() for name in line.decode("utf-8").split("\t"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: line 1 is not UTF-8; convert it, e.g. iconv -f latin1 -t utf-8") from None


def _not_empty(*texts: str) -> tuple[str, ...]:
    if not all(texts):
        raise FaultyRow("empty text")
    return texts


def _glue_label(task: GlueTask, label: str) -> str:
    if task.labels:
        if label not in task.labels:
            raise FaultyRow("unknown label")
        return label
    with suppress(ValueError):
        if 0 <= float(label) <= SCORE_SCALE:
            return label
    raise FaultyRow(f"no score of 0 to {SCORE_SCALE:g}")
