"""Text to ids as a prepared corpus was made: its normalisation, its tokeniser, its dictionary.

And where in the text each token stands. Moses and lower-casing insert spaces and replace characters without
saying where. Words stay in order, so the words of both texts are matched; inside a matched word characters
correspond one to one.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from fairseq_masking.corpus import manifest
from fairseq_masking.corpus.dictionary import ids_of, load_dictionary
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers import Offsets, Tokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer

__all__ = ["ArrayWriter", "TextEncoder", "align", "map_offsets", "most_frequent"]

logger = logging.getLogger(__name__)

_UNIT = re.compile(r"\w+|[^\w\s]")
_WARN, _REFUSE = 0.01, 0.5  # shares of unknown tokens
_SHOWN, _SEARCHED = 5, 1000


@dataclass(frozen=True)
class TextEncoder:
    tokenizer: Tokenizer
    dictionary: Dictionary
    normalizer: TextNormalizer

    @classmethod
    def of_corpus(cls, corpus: str | Path) -> "TextEncoder":
        """Reads a prepared corpus's; of colon-separated shards, the first one's. Its dictionary is checked."""
        folder = manifest.first_shard(corpus)
        normalizer = manifest.load_normalizer(folder)
        manifest.check_dictionary(folder)
        dictionary = load_dictionary(folder / manifest.DICTIONARY_FILE)
        return cls(manifest.load_tokenizer(folder), dictionary, normalizer)

    def __call__(self, text: str) -> list[int]:
        """Returns the ids of a text, without <s> and </s>."""
        return ids_of(self.tokenizer.encode(self.normalizer(text)), self.dictionary)

    def with_offsets(self, text: str) -> tuple[list[int], list[Offsets]]:
        """Returns the same and where in ``text``, not in its normalised form, each token stands."""
        normalized = self.normalizer(text)
        symbols, offsets = self.tokenizer.encode_with_offsets(normalized)
        return ids_of(symbols, self.dictionary), map_offsets(offsets, align(text, normalized), text)

    def check_unknown(self, unknown: int, tokens: int, texts: Iterable[str], what: str) -> None:
        """Warns where over 1% of tokens are unknown, half are an error; names those found first in ``texts``."""
        if unknown <= _WARN * tokens:
            return
        found, searched = Counter[str](), 0
        for text in texts:
            pairs = zip(*self.with_offsets(text), strict=True)
            words = [text[slice(*place)] for index, place in pairs if index == self.dictionary.unk()]
            found.update(map(repr, words))
            searched += bool(words)
            if searched == _SEARCHED:
                break
        share, instances = unknown / tokens, most_frequent(found, _SHOWN)
        said = f"{share:.1%} of the tokens of {what} are <unk>, most often {instances}"
        advice = "is the tokeniser made for such text, its case included (--wordpiece-lowercase, --lowercase)?"
        if unknown > _REFUSE * tokens:
            raise UserError(f"{said}: {advice} Take or train another one (--tokenizer, --tokenizer-from)")
        logger.warning("%s; %s --byte-fallback of train-bpe leaves none", said, advice)


def most_frequent(found: Counter[str], number: int) -> str:
    """Returns the most frequent of what was counted, and how often each."""
    return ", ".join(f"{instance} ({count:,})" for instance, count in found.most_common(number))


def align(original: str, normalized: str) -> list[Offsets] | None:
    """Returns for each character of ``normalized`` the stretch of ``original`` that it came from.

    A character that was inserted (a space, a full stop) gets an empty stretch where it would stand; the
    characters of words that were replaced all get the whole of what they replace. None: the texts are the same.
    """
    if original == normalized:
        return None
    before, after = _units(original), _units(normalized)
    stretches: list[Offsets] = [(-1, -1)] * len(normalized)
    end = 0  # of the last matched stretch of the original
    words = [word for word, _ in before], [word for word, _ in after]
    if words[0] == words[1]:  # lower-casing and Moses's tokeniser alone: by far the most texts
        operations = [("equal", 0, len(before), 0, len(after))]
    else:
        operations = SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    for operation, first, last, start, stop in operations:
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
    """Returns offsets into the normalised text as offsets into ``original``, by ``align``, without spaces at ends."""
    mapped = []
    for begin, end in offsets:
        if stretches is not None and begin == end:
            begin = end = stretches[begin][0] if begin < len(stretches) else len(original)
        elif stretches is not None:
            begin, end = stretches[begin][0], max(stretches[begin][0], stretches[end - 1][1])
        text = original[begin:end]
        begin += len(text) - len(text.lstrip())
        mapped.append((begin, begin + len(text.strip())))
    return mapped


class ArrayWriter(AbstractContextManager["ArrayWriter"]):
    """Writes rows of int32 as fairseq's memory-mapped ``prefix``.bin and .idx."""

    def __init__(self, prefix: Path) -> None:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._prefix = prefix
        self._builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)

    def add(self, row: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """Appends a row, of any length."""
        self._builder.add_item(torch.from_numpy(np.asarray(row, dtype=np.int32).reshape(-1)))

    def __exit__(self, *_: object) -> None:
        self._builder.finalize(f"{self._prefix}.idx")


def _units(text: str) -> list[tuple[str, Offsets]]:
    return [(match[0].lower(), match.span()) for match in _UNIT.finditer(text)]
