"""A binarised corpus: opened after a check that its files are whole, and read as one long sequence.

fairseq maps .bin and .idx into memory as they are: cut short or foreign files end in a traceback far from
the cause, or train on what happens to stand there. The format (``fairseq-preprocess --dataset-impl mmap``):

    .idx  magic 9 bytes | version uint64 = 1 | dtype code uint8 | count uint64 | sizes int32[count]
          | pointers int64[count], each sentence's first byte in .bin
    .bin  the tokens of all sentences, without gaps
"""

import itertools
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import ConcatDataset, Dictionary, data_utils, indexed_dataset
from fairseq.data.indexed_dataset import MMapIndexedDataset, _code_to_dtype, data_file_path, index_file_path

from fairseq_masking.compat.patching import replaces
from fairseq_masking.corpus.manifest import check_contents
from fairseq_masking.errors import PREPARE_AGAIN, UserError
from fairseq_masking.files import open_binary

__all__ = ["TokenStream", "check_indexed", "load_tokens"]

_MAGIC = b"MMIDIDX\x00\x00"
_OTHER_MAGICS = (b"TNTIDX\x00\x00", b"HUFFIDX")
_HEADER = struct.Struct("<9sQBQ")

# Tens of milliseconds; beyond it the ends stand for the rest: a foreign dictionary or a wrong type shows everywhere.
_FULL_SCAN_TOKENS = 50_000_000
_PARTIAL_SCAN_TOKENS = 1_000_000
_CHUNK = 4_000_000


def load_tokens(path_prefix: str, dictionary: Dictionary, combine: bool = False) -> Any:
    """Loads DATA/train or DATA/valid, with ``combine`` also path_prefix1, path_prefix2, ... that exist, as one."""
    check_indexed(path_prefix, len(dictionary))  # a missing one is None to fairseq
    return data_utils.load_indexed_dataset(path_prefix, dictionary, dataset_impl="mmap", combine=combine)


@replaces(indexed_dataset, "make_dataset")
def _make_checked(original: Any, path: str, impl: str, *rest: Any, dictionary: Any = None, **options: Any) -> Any:
    """Every file that fairseq maps into memory is checked before, whatever task asks for it; dictionaries, too."""
    files = (index_file_path(path), data_file_path(path))
    if impl == "mmap" and any(map(os.path.exists, files)):
        check_indexed(path, None if dictionary is None else len(dictionary))
    for file in files:
        check_contents(file)
    return original(path, impl, *rest, dictionary=dictionary, **options)


@replaces(Dictionary, "add_from_file")
def _add_checked(original: Any, self: Dictionary, file: Any, *rest: Any) -> None:
    if isinstance(file, str):
        check_contents(file)
    original(self, file, *rest)


class TokenStream:
    """The tokens of one or more .bin files, addressed by their place in the whole.

    fairseq's memory-mapped dataset stores sentence after sentence without gaps, so a block that spans twenty
    sentences is one slice of the file; going through the dataset would make twenty tensors and join them.
    """

    def __init__(self, parts: Sequence[MMapIndexedDataset]) -> None:
        self._parts = parts  # which pickle as their paths
        self._offsets = [0, *itertools.accumulate(int(part.sizes.sum(dtype=np.int64)) for part in parts)]

    @classmethod
    def of(cls, dataset: Any) -> "TokenStream | None":
        """The stream under a memory-mapped dataset, or under several that fairseq combined; else None."""
        parts = [dataset]
        if isinstance(dataset, ConcatDataset) and all(ratio == 1 for ratio in dataset.sample_ratios):
            parts = dataset.datasets
        return cls(parts) if all(type(part) is MMapIndexedDataset for part in parts) else None

    def __len__(self) -> int:
        return self._offsets[-1]

    def start_of(self, dataset: Any, index: int) -> int:
        """Return the place of the first token of a sentence of the dataset that this is the stream of."""
        part = 0
        if isinstance(dataset, ConcatDataset):
            part, index = dataset._get_dataset_and_sample_index(index)
        lines = self._parts[part]._index
        return self._offsets[part] + int(lines._pointers[index]) // lines._dtype_size

    def read(self, start: int, stop: int, out: npt.NDArray[np.int64]) -> None:
        """Copies the tokens [start, stop) into ``out``, int64 [stop - start]."""
        for part, first, end in zip(self._parts, self._offsets, self._offsets[1:], strict=False):
            low, high = max(start, first), min(stop, end)
            if low < high:
                place = (low - first) * part._index._dtype_size
                tokens = np.frombuffer(part._bin_buffer, part._index.dtype, count=high - low, offset=place)
                out[low - start : high - start] = tokens


def check_indexed(prefix: str, num_symbols: int | None = None) -> None:
    """Check that an .idx and its .bin are whole and as they were written, with ids below ``num_symbols``.

    Ids are checked in full up to 50 million tokens, else the first and last million.
    """
    index_path, data_path = index_file_path(prefix), data_file_path(prefix)
    index_bytes, data_bytes = _size_of(index_path), _size_of(data_path)
    dtype, count = _read_header(index_path, index_bytes)
    sizes = np.memmap(index_path, dtype="<i4", mode="r", offset=_HEADER.size, shape=(count,))
    pointers = np.memmap(index_path, dtype="<i8", mode="r", offset=_HEADER.size + sizes.nbytes, shape=(count,))
    num_tokens = 0
    for start in range(0, count, _CHUNK):
        sizes_chunk = sizes[start : start + _CHUNK].astype(np.int64)
        starts = num_tokens + np.cumsum(sizes_chunk) - sizes_chunk
        if (sizes_chunk < 0).any() or (pointers[start : start + _CHUNK] != starts * dtype.itemsize).any():
            raise UserError(f"{index_path} is damaged (sizes and pointers disagree): {PREPARE_AGAIN}")
        num_tokens += int(sizes_chunk.sum())
    _check_size(data_path, data_bytes, num_tokens * dtype.itemsize, f"{index_path} announces")
    if num_tokens == 0:
        raise UserError(f"{data_path} has no tokens: {PREPARE_AGAIN} from a text that is not empty")

    tokens = np.memmap(data_path, dtype=dtype, mode="r")
    chunks = [tokens[start : start + _CHUNK] for start in range(0, num_tokens, _CHUNK)]
    if num_tokens > _FULL_SCAN_TOKENS:
        chunks = [tokens[:_PARTIAL_SCAN_TOKENS], tokens[-_PARTIAL_SCAN_TOKENS:]]
    for chunk in chunks if num_symbols is not None else ():
        low, high = int(chunk.min()), int(chunk.max())
        if low < 0 or high >= num_symbols:
            raise UserError(
                f"{data_path} holds the token id {low if low < 0 else high}, but dict.txt has {num_symbols}"
                f" symbols: use the dictionary that it was made with, or {PREPARE_AGAIN}"
            )
    for path in (index_path, data_path):
        check_contents(path)


def _size_of(path: str) -> int:
    with open_binary(path, PREPARE_AGAIN) as file:
        return os.fstat(file.fileno()).st_size


def _check_size(path: str, size: int, expected: int, where: str) -> None:
    if size != expected:
        state = "cut short" if size < expected else "too long"
        raise UserError(f"{path} is {state}: {size} bytes where {where} {expected}: {PREPARE_AGAIN}")


def _read_header(path: str, num_bytes: int) -> tuple[np.dtype, int]:
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
    if head.startswith(_OTHER_MAGICS):
        raise UserError(f"{path} is not memory-mapped: binarise with fairseq-preprocess --dataset-impl mmap")
    if not head.startswith(_MAGIC[: len(head)]):
        raise UserError(f"{path} is no index of a binarised corpus (wrong first bytes): {PREPARE_AGAIN}")
    if len(head) < _HEADER.size:
        raise UserError(f"{path} is cut short: {num_bytes} bytes, less than its header: {PREPARE_AGAIN}")
    _, version, code, count = _HEADER.unpack(head)
    dtype = np.dtype(_code_to_dtype.get(code, np.float64)).newbyteorder("<")
    if version != 1 or dtype.kind not in "iu":
        raise UserError(f"{path} is damaged (version {version}, type code {code}): {PREPARE_AGAIN}")
    if count == 0:
        raise UserError(f"{path} lists no sentences: {PREPARE_AGAIN} from a text that is not empty")
    _check_size(path, num_bytes, _HEADER.size + count * (4 + 8), f"{count} sentences take")
    return dtype, count
