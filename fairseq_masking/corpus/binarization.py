"""Text to fairseq's .bin/.idx with its mmap builder, in several processes.

fairseq's ``FileBinarizer.multiprocess_dataset`` lets its first process wait until the others are done, and
``VocabularyDatasetBinarizer`` fills a tensor token by token. The files are byte for byte those of
``VocabularyDatasetBinarizer``, whatever the number of workers.
"""

import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import Dictionary, indexed_dataset

from fairseq_masking.corpus.dictionary import ids_of
from fairseq_masking.corpus.workers import map_in_order
from fairseq_masking.tokenizers import Tokenizer

__all__ = ["binarize"]

_CHUNK_BYTES = 4 << 20


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
) -> npt.NDArray[np.int64]:
    """Writes ``output_prefix``.bin and .idx from a text file, one item a line.

    Args:
        text: UTF-8, one item a line; an empty line becomes a lone </s>.
        output_prefix: path without suffix.
        tokenizer: line to symbols.
        dictionary: symbols to ids; a symbol it lacks becomes <unk>.
        workers: number of processes.
        progress: called with the number of bytes of text done since the last call.

    Returns:
        int64 [V], how often each id was written, the </s> of every line included.
    """
    size = text.stat().st_size
    bounds = [*_line_starts(text, range(0, size, _CHUNK_BYTES)), size]
    chunks = [
        _Chunk(text, start, end, f"{output_prefix}.part{number}")
        for number, (start, end) in enumerate(pairwise(bounds))
    ]
    builder = indexed_dataset.make_builder(f"{output_prefix}.bin", "mmap", len(dictionary))
    counts_V = np.zeros(len(dictionary), dtype=np.int64)
    work = partial(_binarize_chunk, tokenizer, dictionary)
    written = map_in_order(work, chunks, workers=min(workers, len(chunks)))
    for chunk, of_chunk_V in zip(chunks, written, strict=True):
        builder.merge_file_(chunk.prefix)
        for path in (f"{chunk.prefix}.bin", f"{chunk.prefix}.idx"):
            os.remove(path)
        counts_V += of_chunk_V
        if progress is not None:
            progress(chunk.end - chunk.start)
    builder.finalize(f"{output_prefix}.idx")
    return counts_V


def _binarize_chunk(tokenizer: Tokenizer, dictionary: Dictionary, chunk: _Chunk) -> npt.NDArray[np.int64]:
    counts_V = np.zeros(len(dictionary), dtype=np.int64)
    builder = indexed_dataset.make_builder(f"{chunk.prefix}.bin", "mmap", len(dictionary))
    with open(chunk.text, "rb") as file:
        file.seek(chunk.start)
        position = chunk.start
        while position < chunk.end:
            raw = file.readline()
            position += len(raw)
            ids_T = _binarize_line(raw.decode("utf-8").removesuffix("\n"), tokenizer, dictionary)
            np.add.at(counts_V, ids_T, 1)
            builder.add_item(torch.from_numpy(ids_T))
    builder.finalize(f"{chunk.prefix}.idx")
    return counts_V


def _binarize_line(line: str, tokenizer: Tokenizer, dictionary: Dictionary) -> npt.NDArray[np.int32]:
    return np.array([*ids_of(tokenizer.encode(line), dictionary), dictionary.eos()], dtype=np.int32)


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
