"""Tokenisers that a vocabulary's own files describe, run by Hugging Face's ``tokenizers``.

GPT-2's byte-level BPE, BERT's WordPiece, and symbols with white space between them: residues, notes, words of a
text that somebody else took apart.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers.backend import BackendTokenizer
from fairseq_masking.tokenizers.base import SILENT_SYMBOLS
from fairseq_masking.tokenizers.symbols import BERT_SYMBOLS, FILLER_PREFIX, SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = [
    "BertTokenizer", "Gpt2Tokenizer", "SymbolCounting", "WhitespaceTokenizer", "byte_level_backend", "read_merges",
    "symbols_apart", "wordpiece_backend",
]  # fmt: skip

_BERT_UNK = BERT_SYMBOLS[UNK_SYMBOL]


class Gpt2Tokenizer(BackendTokenizer):
    """GPT-2's byte-level BPE from encoder.json and vocab.bpe: ids of fairseq's own encoder, several times faster."""

    kind = "gpt2"
    file_names = ("encoder.json", "vocab.bpe")

    def __init__(self, encoder_json: Path, vocab_bpe: Path) -> None:
        super().__init__(encoder_json, vocab_bpe)
        way_out = "give GPT-2's encoder.json"
        vocabulary = read_json(encoder_json, way_out)
        ids = range(len(vocabulary))
        if len(ids) < 256 or sorted(map(repr, vocabulary.values())) != sorted(map(repr, ids)):
            raise UserError(f"{encoder_json} does not map 256 symbols or more to the ids 0, 1, ...; {way_out}")
        merges = read_merges(vocab_bpe)
        try:
            self.backend = byte_level_backend(vocabulary, merges)
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"{vocab_bpe} does not belong to {encoder_json} ({first_line(error)}); "
                "give the vocab.bpe that came with it"
            ) from error
        self.symbols = self.by_id = list(map(str, ids))


class BertTokenizer(BackendTokenizer):
    """BERT's WordPiece from a vocab.txt.

    [PAD], [UNK], [CLS], [SEP] and [MASK] are fairseq's <pad>, <unk>, <s>, </s> and <mask>; the rest of
    vocab.txt, the [unusedN] included, makes up the dictionary in its order.
    """

    kind = "bert"
    file_names = ("vocab.txt",)

    def __init__(self, vocab: Path, *, lowercase: bool = False) -> None:
        super().__init__(vocab, lowercase=lowercase)
        words, ids = _read_lines(vocab, "give a BERT vocab.txt"), dict[str, int]()
        for index, word in enumerate(words):
            if not word or " " in word or word in SPECIAL_SYMBOLS or word in ids:
                fault = "stands there twice" if word in ids else "is no WordPiece"
                raise UserError(f"{vocab}: line {index + 1} ({word[:40]!r}) {fault}; give a BERT vocab.txt")
            ids[word] = index
        if _BERT_UNK not in ids:
            raise UserError(f"{vocab} has no {_BERT_UNK}; give a BERT vocab.txt")
        self.backend = wordpiece_backend(ids, unknown=_BERT_UNK, lowercase=lowercase)
        self.by_id = [UNK_SYMBOL if word == _BERT_UNK else word for word in words]
        self.symbols = [word for word in words if word not in BERT_SYMBOLS.values()]

    def decode(self, symbols: Sequence[str]) -> str:
        return self.backend.decoder.decode([symbol for symbol in symbols if symbol not in SILENT_SYMBOLS])


class WhitespaceTokenizer(BackendTokenizer):
    """What stands between white space is a symbol, as in stock ``fairseq-preprocess``; a dict.txt has them."""

    kind = "whitespace"
    file_names = ("dict.txt",)

    def __init__(self, dictionary: Path) -> None:
        super().__init__(dictionary)
        lines = _read_lines(dictionary, "give fairseq's dict.txt")
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
    """Returns the tokeniser of data that stock fairseq-preprocess made with this dict.txt, of white space alone."""
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


def byte_level_backend(ids: dict[str, int], merges: list[tuple[str, str]], *, prefix_space: bool = False) -> Any:
    """Returns Hugging Face's byte-level BPE over these tokens -> ids."""
    backend = Backend(models.BPE(ids, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def wordpiece_backend(ids: dict[str, int], *, unknown: str, **text: Any) -> Any:
    """Returns Hugging Face's WordPiece as BERT has it, over these tokens -> ids; ``text``: of its normaliser."""
    backend = Backend(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(**text)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return backend


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Returns the pairs of a vocab.bpe, first merge first."""
    merges = []
    for number, line in enumerate(_read_lines(path, "give GPT-2's vocab.bpe"), start=1):
        parts = line.split()
        if len(parts) == 2 and not (number == 1 and line.startswith("#version")):
            merges.append((parts[0], parts[1]))
        elif parts and number > 1:
            raise UserError(f"{path}: line {number} is no pair of symbols; give GPT-2's vocab.bpe")
    if not merges:
        raise UserError(f"{path} holds no merges; give GPT-2's vocab.bpe")
    return merges


def _read_lines(path: Path, way_out: str) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not UTF-8 ({first_line(error)}); {way_out}") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
