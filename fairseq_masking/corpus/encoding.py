"""Text to ids as a prepared corpus was made: its normalisation, its tokeniser, its dictionary."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from fairseq_masking.corpus.dictionary import ids_of, load_dictionary
from fairseq_masking.corpus.manifest import DICTIONARY_FILE, check_dictionary, first_shard
from fairseq_masking.tokenizers import Offsets, Tokenizer, load_tokenizer
from fairseq_masking.tokenizers.alignment import align, map_offsets
from fairseq_masking.tokenizers.normalization import TextNormalizer, load_normalizer

__all__ = ["ArrayWriter", "TextEncoder", "encode_with_offsets"]


@dataclass(frozen=True)
class TextEncoder:
    """What turns text into ids."""

    tokenizer: Tokenizer
    dictionary: Dictionary
    normalizer: TextNormalizer

    @classmethod
    def of_corpus(cls, corpus: str | Path) -> "TextEncoder":
        """Reads a prepared corpus's; of colon-separated shards, the first one's.

        Raises:
            UserError: it is no prepared corpus, or its dictionary is another one now.
        """
        folder = first_shard(corpus)
        normalizer = load_normalizer(folder)
        check_dictionary(folder)
        return cls(load_tokenizer(folder), load_dictionary(folder / DICTIONARY_FILE), normalizer)

    def __call__(self, text: str) -> list[int]:
        """Returns the ids of a text, without <s> and </s>."""
        return ids_of(self.tokenizer.encode(self.normalizer(text)), self.dictionary)

    def with_offsets(self, text: str) -> tuple[list[int], list[Offsets]]:
        """Returns the same and where in ``text``, not in its normalised form, each token stands."""
        symbols, offsets = encode_with_offsets(text, self.tokenizer, self.normalizer)
        return ids_of(symbols, self.dictionary), offsets


def encode_with_offsets(
    text: str, tokenizer: Tokenizer, normalizer: TextNormalizer
) -> tuple[list[str], list[Offsets]]:
    """Returns a text's symbols and where in it, not in its normalised form, each one stands."""
    normalized = normalizer(text)
    symbols, offsets = tokenizer.encode_with_offsets(normalized)
    return symbols, map_offsets(offsets, align(text, normalized), text)


class ArrayWriter:
    """Writes rows of int32 as fairseq's memory-mapped ``prefix``.bin and .idx."""

    def __init__(self, prefix: Path) -> None:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._prefix = prefix
        self._builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)

    def add(self, row: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """Appends a row, of any length."""
        self._builder.add_item(torch.from_numpy(np.asarray(row, dtype=np.int32).reshape(-1)))

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._builder.finalize(f"{self._prefix}.idx")
