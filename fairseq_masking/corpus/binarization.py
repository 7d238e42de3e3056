"""Text to fairseq's .bin/.idx: its binariser interface, its mmap builder, several processes.

fairseq's ``FileBinarizer.multiprocess_dataset`` lets its first process wait until the others are done, and
``VocabularyDatasetBinarizer`` fills a tensor token by token; the pieces they are made of work in parallel
here. The files are byte for byte those of ``VocabularyDatasetBinarizer``, whatever the number of workers.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fairseq.binarizer import Binarizer, BinarizeSummary
from fairseq.data import Dictionary, indexed_dataset

from fairseq_masking.corpus.workers import map_in_order
from fairseq_masking.tokenizers import Tokenizer

__all__ = ["BinarizedText", "TokenizerBinarizer", "binarize"]

_CHUNK_BYTES = 4 << 20


class TokenizerBinarizer(Binarizer):
    """A line of text to its ids and </s>, counting what it sees.

    Attributes:
        counts: int64 [V], how often each id was written.
    """

    def __init__(self, tokenizer: Tokenizer, dictionary: Dictionary) -> None:
        self._encode = tokenizer.encode
        self._indices = dictionary.indices
        self._unk, self._eos = dictionary.unk(), dictionary.eos()
        self.counts = np.zeros(len(dictionary), dtype=np.int64)

    def binarize_line(self, line: str, summary: BinarizeSummary) -> torch.IntTensor:
        """Returns the ids, int32 [T]; adds to ``summary`` and to ``counts``."""
        index, unk = self._indices.get, self._unk
        ids = [index(symbol, unk) for symbol in self._encode(line)]
        ids.append(self._eos)
        array = np.array(ids, dtype=np.int32)
        np.add.at(self.counts, array, 1)
        summary.num_seq += 1
        summary.num_tok += len(ids)
        return torch.from_numpy(array)  # type: ignore[return-value]


@dataclass
class BinarizedText:
    """What was written.

    Attributes:
        tokens: number of ids, the </s> of every line included.
        counts: int64 [V], how often each id was written.
    """

    tokens: int
    counts: np.ndarray


class _Chunk(NamedTuple):
    text: Path
    start: int
    end: int
    prefix: str


def binarize(
    text: Path,
    output_prefix: Path,
    tokenizer: Tokenizer,
    dictionary: Dictionary,
    *,
    workers: int,
    progress: Callable[[int], object] | None = None,
) -> BinarizedText:
    """Writes ``output_prefix``.bin and .idx from a text file, one item a line.

    Args:
        text: UTF-8, one item a line; an empty line becomes a lone </s>.
        output_prefix: path without suffix.
        tokenizer: line to symbols.
        dictionary: symbols to ids; a symbol it lacks becomes <unk>.
        workers: number of processes.
        progress: called with the number of bytes of text done since the last call.
    """
    size = text.stat().st_size
    bounds = [*_line_starts(text, range(0, size, _CHUNK_BYTES)), size]
    chunks = [
        _Chunk(text, start, end, f"{output_prefix}.part{number}")
        for number, (start, end) in enumerate(pairwise(bounds))
    ]
    builder = indexed_dataset.make_builder(f"{output_prefix}.bin", "mmap", len(dictionary))
    result = BinarizedText(0, np.zeros(len(dictionary), dtype=np.int64))
    work = partial(_binarize_chunk, tokenizer, dictionary)
    for chunk, (tokens, counts) in zip(
        chunks, map_in_order(work, chunks, workers=min(workers, len(chunks))), strict=True
    ):
        builder.merge_file_(chunk.prefix)
        for path in (f"{chunk.prefix}.bin", f"{chunk.prefix}.idx"):
            os.remove(path)
        result.tokens += tokens
        result.counts += counts
        if progress is not None:
            progress(chunk.end - chunk.start)
    builder.finalize(f"{output_prefix}.idx")
    return result


def _binarize_chunk(tokenizer: Tokenizer, dictionary: Dictionary, chunk: _Chunk) -> tuple[int, np.ndarray]:
    binarizer = TokenizerBinarizer(tokenizer, dictionary)
    summary = BinarizeSummary()
    builder = indexed_dataset.make_builder(f"{chunk.prefix}.bin", "mmap", len(dictionary))
    with open(chunk.text, "rb") as file:
        file.seek(chunk.start)
        position = chunk.start
        while position < chunk.end:
            raw = file.readline()
            position += len(raw)
            builder.add_item(binarizer.binarize_line(raw.decode("utf-8").removesuffix("\n"), summary))
    builder.finalize(f"{chunk.prefix}.idx")
    return summary.num_tok, binarizer.counts


def _line_starts(path: Path, offsets: range) -> list[int]:
    """For each offset the start of the first line from there on, without duplicates or the file's end.

    fairseq's find_offsets does this in text mode, where ``tell`` is slow and not always a byte offset.
    """
    starts: list[int] = []
    size = path.stat().st_size
    with open(path, "rb") as file:
        for offset in offsets:
            start = 0
            if offset:
                file.seek(offset - 1)
                file.readline()
                start = file.tell()
            if start < size and start not in starts[-1:]:
                starts.append(start)
    return starts
