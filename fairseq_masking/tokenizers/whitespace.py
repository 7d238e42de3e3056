"""Symbols with white space between them: residues, notes, words of a text that somebody else took apart."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.backend import BackendTokenizer
from fairseq_masking.tokenizers.base import read_utf8_lines
from fairseq_masking.tokenizers.symbols import FILLER_PREFIX, SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = ["SymbolCounting", "WhitespaceTokenizer", "symbols_apart"]


class WhitespaceTokenizer(BackendTokenizer):
    """What stands between white space is a symbol, as in stock ``fairseq-preprocess``; a dict.txt has them."""

    kind = "whitespace"
    file_names = ("dict.txt",)

    def __init__(self, dictionary: Path) -> None:
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, pre_tokenizers

        super().__init__(dictionary)
        lines = read_utf8_lines(dictionary, "give fairseq's dict.txt")
        symbols = dict.fromkeys(line.removesuffix(" #fairseq:overwrite").rpartition(" ")[0] for line in lines)
        self.symbols = [s for s in symbols if s and s not in SPECIAL_SYMBOLS and not s.startswith(FILLER_PREFIX)]
        self.by_id = [UNK_SYMBOL, *self.symbols]
        ids = {symbol: index for index, symbol in enumerate(self.by_id)}
        self.backend = Backend(models.WordLevel(ids, unk_token=UNK_SYMBOL))
        self.backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


@dataclass(frozen=True)
class SymbolCounting:
    """Take every symbol that a text has, the most frequent first."""

    def __call__(self, lines: Iterable[str], folder: Path) -> WhitespaceTokenizer:
        """Writes a dict.txt into ``folder``; returns the tokeniser of these symbols."""
        counts = Counter(symbol for line in lines for symbol in line.split())
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        path = folder / "dict.txt"
        path.write_text("".join(f"{symbol} {count}\n" for symbol, count in ordered), encoding="utf-8")
        return WhitespaceTokenizer(path)


def symbols_apart(dictionary: Path) -> WhitespaceTokenizer:
    """Returns the tokeniser of data that stock fairseq-preprocess made with this dict.txt.

    Raises:
        UserError: the symbols are those of another tokeniser, through which the text went before.
    """
    tokenizer = WhitespaceTokenizer(dictionary)
    symbols = tokenizer.symbols
    signs = {"▁": "sentencepiece", "##": "wordpiece"}
    found = next(((kind, s) for s in symbols for sign, kind in signs.items() if s.startswith(sign)), None)
    if len(symbols) > 1000 and all(symbol.isdecimal() for symbol in symbols):
        found = "gpt2", symbols[0]
    if found is not None:
        raise UserError(
            f"{dictionary} has symbols such as {found[1]!r}, so its text went through a tokeniser; say which:"
            f" fairseq-masking prepare corpus --from-fairseq {dictionary.parent} --tokenizer {found[0]}, with files"
        )
    return tokenizer
