"""Documents: raw files to one normalised text file, and that to a validation split and shards.

The intermediate text has one line per item of the data set. Where documents can have several lines, an empty
line stands *between* two documents; fairseq binarises it to a lone </s>, at which ``--sample-break-mode
complete_doc`` cuts. Where every document is one line (``--documents line`` without sentence splitting) there
is no empty line: each line is a whole document, and ``--sample-break-mode eos`` keeps them apart.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from fairseq_masking.corpus.reading import read_lines
from fairseq_masking.corpus.workers import map_in_order
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.normalization import TextNormalizer

__all__ = ["DOCUMENT_BOUNDS", "TextFile", "distribute_documents", "draw_validation", "write_documents"]

DOCUMENT_BOUNDS = ("line", "blank-line")
_BATCH_LINES = 512


@dataclass
class TextFile:
    """A text file of the intermediate form.

    Attributes:
        path: where it lies.
        separated: whether empty lines stand between documents.
        documents: how many were written.
        lines: how many lines with text were written.
    """

    path: Path
    separated: bool
    documents: int = 0
    lines: int = 0
    _file: TextIO | None = field(default=None, repr=False)

    def __enter__(self) -> "TextFile":
        self._file = open(self.path, "w", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None

    def write(self, line: str, *, new_document: bool) -> None:
        """Appends a line, to the last document or to a new one."""
        assert self._file is not None
        if new_document:
            if self.separated and self.documents:
                self._file.write("\n")
            self.documents += 1
        self.lines += 1
        self._file.write(line + "\n")

    def read(self) -> Iterator[tuple[bool, str]]:
        """Yields (whether a document begins here, line)."""
        new_document = True
        with open(self.path, encoding="utf-8", newline="\n") as file:
            for raw in file:
                line = raw.removesuffix("\n")
                if line:
                    yield new_document, line
                new_document = not (self.separated and line)


def write_documents(
    inputs: Sequence[Path],
    output: Path,
    *,
    documents: str,
    normalizer: TextNormalizer,
    workers: int,
    progress: Callable[[int], object] | None = None,
) -> TextFile:
    """Normalises raw text files into one file of the intermediate form.

    Args:
        inputs: text files, read as streams; a file's end ends a document.
        output: file to write.
        documents: "line" (each line is a document) or "blank-line" (empty lines stand between documents).
        normalizer: what to do with each line.
        workers: number of processes; 1 where the normaliser has little to do.
        progress: called with the number of input bytes read since the last call.

    Raises:
        UserError: an input cannot be read, or the text vanishes in normalisation.
    """
    by_line = documents == "line"
    text = TextFile(output, separated=not by_line or normalizer.split_sentences)
    batches = _batches(inputs, progress)
    with text:
        new_document = True
        normalize = partial(_normalize_batch, normalizer)
        for batch in map_in_order(normalize, batches, workers=workers if normalizer.is_costly else 1):
            for sentences in batch:
                if sentences is None:  # an empty line or a file's end
                    new_document = True
                    continue
                for sentence in sentences:
                    text.write(sentence, new_document=new_document)
                    new_document = by_line and not text.separated
                new_document = new_document or by_line
    if not text.documents:
        raise UserError(f"{', '.join(map(str, inputs))}: no text is left after normalisation")
    return text


def draw_validation(num_documents: int, fraction: float, seed: int) -> frozenset[int]:
    """Draws the documents of the validation split: an exact number, at least one, a function of ``seed``.

    Raises:
        UserError: there are fewer than two documents.
    """
    if fraction == 0:
        return frozenset()
    if num_documents < 2:
        raise UserError(
            f"the corpus has {num_documents} document, too few to split off a validation set; give --valid "
            "FILE, or --documents line if each line is a document"
        )
    count = min(max(1, round(num_documents * fraction)), num_documents - 1)
    chosen = np.random.default_rng(seed).choice(num_documents, count, replace=False, shuffle=False)
    return frozenset(chosen.tolist())


def distribute_documents(
    source: TextFile, outputs: Sequence[Path], choose: Callable[[int], int]
) -> list[TextFile]:
    """Copies document number i of ``source`` into ``outputs[choose(i)]``, in order."""
    texts = [TextFile(path, source.separated) for path in outputs]
    with ExitStack() as stack:
        for text in texts:
            stack.enter_context(text)
        number = -1
        for new_document, line in source.read():
            if new_document:
                number += 1
                text = texts[choose(number)]
            text.write(line, new_document=new_document)
    return texts


def _batches(inputs: Sequence[Path], progress: Callable[[int], object] | None) -> Iterator[list[str]]:
    for path in inputs:
        batch = []
        for line in read_lines(path, progress):
            batch.append(line)
            if len(batch) == _BATCH_LINES:
                yield batch
                batch = []
        yield [*batch, ""]


def _normalize_batch(normalizer: TextNormalizer, lines: list[str]) -> list[list[str] | None]:
    return [normalizer.sentences(line) if line else None for line in lines]
