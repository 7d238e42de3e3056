"""Text to ids as a prepared corpus was made: its normalisation, its tokeniser, its dictionary.

And where in the text each token stands. Moses and lower-casing insert spaces and replace characters without
saying where. Words stay in order, so the words of both texts are matched; inside a matched word characters
correspond one to one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from fairseq_masking.corpus.dictionary import ids_of, load_dictionary
from fairseq_masking.corpus.manifest import (
    DICTIONARY_FILE,
    check_dictionary,
    first_shard,
    load_normalizer,
    load_tokenizer,
)
from fairseq_masking.tokenizers import Offsets, Tokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer

__all__ = ["ArrayWriter", "TextEncoder", "align", "map_offsets"]

_UNIT = re.compile(r"\w+|[^\w\s]")


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
        normalized = self.normalizer(text)
        symbols, offsets = self.tokenizer.encode_with_offsets(normalized)
        return ids_of(symbols, self.dictionary), map_offsets(offsets, align(text, normalized), text)


def align(original: str, normalized: str) -> list[Offsets] | None:
    """Returns for each character of ``normalized`` the stretch of ``original`` that it came from.

    A character that was inserted (a space, a full stop) gets an empty stretch where it would stand; the
    characters of words that were replaced all get the whole of what they replace. None where the texts are
    the same.
    """
    if original == normalized:
        return None
    before, after = _units(original), _units(normalized)
    stretches: list[Offsets] = [(-1, -1)] * len(normalized)
    end = 0  # of the last matched stretch of the original
    for operation, first, last, start, stop in _operations([w for w, _ in before], [w for w, _ in after]):
        if operation == "equal":
            for (_, (a, b)), (_, (c, d)) in zip(before[first:last], after[start:stop], strict=True):
                same = b - a == d - c
                stretches[c:d] = [(a + i, a + i + 1) if same else (a, b) for i in range(d - c)]
        elif start < stop:
            whole = (before[first][1][0], before[last - 1][1][1]) if first < last else (end, end)
            for _, (c, d) in after[start:stop]:
                stretches[c:d] = [whole] * (d - c)
        end = before[last - 1][1][1] if last else 0
    place = 0
    for index, stretch in enumerate(stretches):  # what lies between words
        place = max(place, stretch[1])
        if stretch[0] < 0:
            stretches[index] = (place, place)
    return stretches


def map_offsets(offsets: list[Offsets], stretches: list[Offsets] | None, original: str) -> list[Offsets]:
    """Returns offsets into the normalised text as offsets into ``original``, without spaces at their ends.

    Args:
        stretches: what ``align`` returned for the two texts.
    """
    mapped = []
    for begin, end in offsets:
        if stretches is not None:
            if begin == end:
                begin = end = stretches[begin][0] if begin < len(stretches) else len(original)
            else:
                begin, end = stretches[begin][0], max(stretches[begin][0], stretches[end - 1][1])
        while begin < end and original[begin].isspace():
            begin += 1
        while begin < end and original[end - 1].isspace():
            end -= 1
        mapped.append((begin, end))
    return mapped


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


def _operations(before: list[str], after: list[str]) -> list[tuple[str, int, int, int, int]]:
    if before == after:  # lower-casing and Moses's tokeniser alone: by far the most texts
        return [("equal", 0, len(before), 0, len(after))]
    return SequenceMatcher(None, before, after, autojunk=False).get_opcodes()


def _units(text: str) -> list[tuple[str, Offsets]]:
    return [(match[0].lower(), match.span()) for match in _UNIT.finditer(text)]
