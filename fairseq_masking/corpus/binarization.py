"""Text to fairseq's .bin/.idx with its mmap builder, in several processes.

fairseq's ``FileBinarizer.multiprocess_dataset`` lets its first process wait until the others are done, and
``VocabularyDatasetBinarizer`` fills a tensor token by token. The files are byte for byte those of
``VocabularyDatasetBinarizer``, whatever the number of workers.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from fairseq.data import Dictionary, indexed_dataset

from fairseq_masking.corpus.workers import map_in_order
from fairseq_masking.tokenizers import Tokenizer

__all__ = ["binarize"]

_CHUNK_BYTES = 4 << 20
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def binarize(
    text: Path,
    output_prefix: Path,
    tokenizer: Tokenizer,
    dictionary: Dictionary,
    *,
    workers: int,
    progress: Callable[[int], object],
) -> tuple[npt.NDArray[np.int64], Counter[str]]:
    """Writes ``output_prefix``.bin and .idx from a text file in UTF-8, one item a line, be it a lone </s>.

    Args:
        dictionary: a symbol it lacks becomes <unk>.
        progress: called with the number of bytes of text done since the last call.

    Returns:
        int64 [V], how often each id was written, the </s> of every line included; and how often each character
        outside of ASCII stands in the text.
    """
    size = text.stat().st_size
    chunks = range(0, size, _CHUNK_BYTES)
    builder = indexed_dataset.make_builder(f"{output_prefix}.bin", "mmap", len(dictionary))
    counts_V = np.zeros(len(dictionary), dtype=np.int64)
    seen = Counter[str]()
    work = partial(_binarize_chunk, text, output_prefix, tokenizer, dictionary)
    written = map_in_order(work, chunks, workers=min(workers, len(chunks)))
    for start, (part, of_chunk_V, of_chunk) in zip(chunks, written, strict=True):
        builder.merge_file_(part)
        for suffix in (".bin", ".idx"):
            os.remove(part + suffix)
        counts_V += of_chunk_V
        seen += of_chunk
        progress(min(_CHUNK_BYTES, size - start))
    builder.finalize(f"{output_prefix}.idx")
    return counts_V, seen


def _binarize_chunk(
    text: Path, output_prefix: Path, tokenizer: Tokenizer, dictionary: Dictionary, start: int
) -> tuple[str, npt.NDArray[np.int64], Counter[str]]:
    """Writes the lines that begin in a chunk, perhaps none; returns their files' prefix and both counts."""
    part = f"{output_prefix}.part{start}"
    lines: list[bytes] = []
    with open(text, "rb") as file:  # fairseq's find_offsets is in text mode, where ``tell`` is slow and no byte offset
        if start:
            file.seek(start - 1)
            file.readline()
        while file.tell() < start + _CHUNK_BYTES and (raw := file.readline()):
            lines.append(raw.removesuffix(b"\n"))
    decoded = [line.decode("utf-8") for line in lines]
    seen = Counter(_NOT_ASCII.findall("\n".join(decoded)))
    ids_N, sizes_L = tokenizer.encode_lines(decoded, dictionary.indices, dictionary.unk())
    ids_N = np.insert(ids_N, np.cumsum(sizes_L), dictionary.eos())
    builder = indexed_dataset.make_builder(f"{part}.bin", "mmap", len(dictionary))
    builder._data_file.write(ids_N.astype(builder._dtype).tobytes())  # add_item goes line by line
    builder._sizes = (sizes_L + 1).tolist()
    builder.finalize(f"{part}.idx")
    return part, np.bincount(ids_N, minlength=len(dictionary)), seen
