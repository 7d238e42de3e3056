"""Reads any stretch of a binarised corpus at once, as if its sentences were one long sequence.

fairseq's memory-mapped dataset stores sentence after sentence without gaps, so a block that spans twenty
sentences is one slice of the file; going through the dataset would make twenty tensors and join them.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import ConcatDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset, data_file_path

__all__ = ["TokenStream"]


class TokenStream:
    """The tokens of one or more .bin files, addressed by their place in the whole.

    Files are opened when first read in each process, so that the object pickles as a few paths.

    Args:
        paths: of the .bin files, in order.
        dtypes: of their tokens.
        num_tokens: of each file.
    """

    def __init__(self, paths: Sequence[str], dtypes: Sequence[np.dtype], num_tokens: Sequence[int]) -> None:
        self._paths = list(paths)
        self._dtypes = list(dtypes)
        self._offsets = [0, *itertools.accumulate(num_tokens)]
        self._files: list[npt.NDArray] | None = None

    @classmethod
    def of(cls, dataset: Any) -> "TokenStream | None":
        """The stream under a memory-mapped dataset, or under several that fairseq combined; else None."""
        parts = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]
        if isinstance(dataset, ConcatDataset) and any(ratio != 1 for ratio in dataset.sample_ratios):
            return None
        if not all(type(part) is MMapIndexedDataset for part in parts):
            return None
        return cls(
            [data_file_path(part._path) for part in parts],
            [np.dtype(part._index.dtype) for part in parts],
            [int(part.sizes.sum(dtype=np.int64)) for part in parts],
        )

    def __len__(self) -> int:
        return self._offsets[-1]

    def __getstate__(self) -> dict[str, object]:
        # A pickled memory map would carry the whole corpus to every spawned worker.
        return {**self.__dict__, "_files": None}

    def read(self, start: int, stop: int, out: npt.NDArray[np.int64]) -> None:
        """Copies the tokens [start, stop) into ``out``, int64 [stop - start]."""
        if self._files is None:
            self._files = [
                np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)
                for path, dtype in zip(self._paths, self._dtypes, strict=True)
            ]
        for file, first, end in zip(self._files, self._offsets, self._offsets[1:], strict=False):
            low, high = max(start, first), min(stop, end)
            if low < high:
                out[low - start : high - start] = file[low - first : high - first]
