"""What every tokeniser can do."""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, groupby
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fairseq_masking.files import hash_file, read_json
from fairseq_masking.tokenizers.symbols import BOS_SYMBOL, EOS_SYMBOL, MASK_SYMBOL, PAD_SYMBOL, SPECIAL_SYMBOLS

__all__ = ["SILENT_SYMBOLS", "IdsN", "Offsets", "Tokenizer", "in_one"]

SILENT_SYMBOLS = frozenset({BOS_SYMBOL, PAD_SYMBOL, EOS_SYMBOL})
_OPTIONS_FILE = "options.json"

# Worker processes are our own; the library's thread pool on top of them only gets in the way of fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Offsets = tuple[int, int]  # first character, and the one after the last
IdsN = npt.NDArray[np.int64]


class Tokenizer(ABC):
    """Text to dictionary symbols and back."""

    kind: ClassVar[str]  # a name of ``KINDS``
    file_names: ClassVar[tuple[str, ...]]  # in the tokenizer folder, as ``__init__`` takes their paths
    symbols: list[str]  # its vocabulary as it stands in dict.txt, without the five special symbols

    def __init__(self, *paths: Path, **options: Any) -> None:
        self.files = dict(zip(self.file_names, paths, strict=True))  # where they lie now
        self.options = options  # what else decides how text is written
        for path in paths:
            hash_file(path)  # speaks up where the file is missing, empty or unreadable

    def encode(self, text: str) -> list[str]:
        """Returns dictionary symbols, without <s> and </s>; "<unk>" for what the vocabulary cannot write."""
        return self.encode_with_offsets(text)[0]

    def encode_lines(self, lines: Sequence[str], indices: Mapping[str, int], unk: int) -> tuple[IdsN, IdsN]:
        """Returns the ids of many lines in one [N], those of ``encode``'s symbols, and how many each line has [L].

        ``unk`` stands for symbols without an id.
        """
        return in_one([[indices.get(symbol, unk) for symbol in self.encode(line)] for line in lines])

    @abstractmethod
    def encode_with_offsets(self, text: str) -> tuple[list[str], list[Offsets]]:
        """Returns what ``encode`` does, and for each symbol where in ``text`` its characters stand."""

    def encode_words(self, text: str) -> tuple[list[str], list[int]]:
        """Returns what ``encode`` does, and for each symbol the number of its word, ascending."""
        symbols = self.encode(text)
        return symbols, list(accumulate(map(self.starts_word, symbols)))

    def encode_around(self, parts: Sequence[str]) -> list[str]:
        """Returns the symbols of a text with a <mask> between its ``parts``, as if a word stood there.

        White space before a <mask> belongs to the word that it hides, as most symbols bring theirs along.
        """
        symbols = self.encode(parts[0].rstrip())
        for part in parts[1:]:
            symbols += [MASK_SYMBOL, *self.encode_further(part.rstrip())]
        return symbols

    def encode_further(self, text: str) -> list[str]:
        """Returns the symbols of a text that goes on after another one; "." begins no word then."""
        return self.encode(text)

    def decode(self, symbols: Sequence[str]) -> str:
        """Returns readable text. <s>, </s> and <pad> vanish, <mask> and <unk> are shown as words."""
        text, shown = "", [symbol for symbol in symbols if symbol not in SILENT_SYMBOLS]
        for special, group in groupby(shown, key=lambda symbol: symbol in SPECIAL_SYMBOLS):
            run = list(group)
            # Most decoders drop the space before the first symbol, be it the text's beginning or not.
            begins = special or self.starts_word(run[0])
            for part in run if special else [self.join(run)]:
                glued = not text or text.endswith(" ") or part.startswith(" ") or not begins
                text += part if glued else " " + part
        return text

    def normalize(self, text: str) -> str:
        """Returns the text that the tokeniser's own normaliser makes of one before it looks for symbols."""
        return text

    @abstractmethod
    def join(self, symbols: Sequence[str]) -> str:
        """Returns the text of ordinary symbols."""

    @abstractmethod
    def starts_word(self, symbol: str) -> bool:
        """Whether a word begins with this symbol. True for special symbols and madeupwords, as in fairseq."""

    @abstractmethod
    def surface(self, symbol: str) -> str:
        """The text of one symbol inside a sentence, with the space before it where it starts a word."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the tokeniser's files from a folder; a UserError where one is missing or not what its name says."""
        # Without options: files that somebody put there by hand.
        options = read_json(folder / _OPTIONS_FILE, "prepare the data again", optional=True)
        return cls(*(folder / name for name in cls.file_names), **options)

    def digests(self) -> dict[str, str]:
        """Returns the SHA-256 of each of its files."""
        return {name: hash_file(path) for name, path in self.files.items()}

    def save(self, folder: Path) -> None:
        """Copies the tokeniser's files into a folder, made where absent."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in self.files.items():
            if path.resolve() != (folder / name).resolve():
                shutil.copyfile(path, folder / name)
        if self.options:
            (folder / _OPTIONS_FILE).write_text(json.dumps(self.options) + "\n", encoding="utf-8")


def in_one(rows: Sequence[Sequence[int]]) -> tuple[IdsN, IdsN]:
    """Returns rows of ids one after the other, and their lengths."""
    sizes_L = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=sizes_L.sum()), sizes_L
