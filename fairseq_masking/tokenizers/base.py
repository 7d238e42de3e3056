"""Tokenisers: text to dictionary symbols and back, for SentencePiece, GPT-2 BPE and BERT WordPiece.

Each kind keeps its files in DATA/tokenizer/ and has the name that fairseq's ``--bpe`` gives it. The symbols
stand in dict.txt as fairseq writes them: SentencePiece pieces ("▁the"), GPT-2 ids as decimal strings ("262"),
WordPieces ("##ing"). Special symbols written out in a text ("<s>", "[MASK]") are ordinary text here.
"""

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Self

from fairseq_masking.corpus.manifest import TOKENIZER_FOLDER, first_shard, read_manifest
from fairseq_masking.corpus.reading import hash_file
from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers.symbols import (
    BOS_SYMBOL,
    EOS_SYMBOL,
    FILLER_PREFIX,
    PAD_SYMBOL,
    SPECIAL_SYMBOLS,
    UNK_SYMBOL,
)

__all__ = [
    "KINDS",
    "Offsets",
    "BertTokenizer",
    "Gpt2Tokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
]

_SILENT = frozenset({BOS_SYMBOL, PAD_SYMBOL, EOS_SYMBOL})
_OPTIONS_FILE = "options.json"

# Worker processes are our own; the library's thread pool on top of them only gets in the way of fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


Offsets = tuple[int, int]  # first character, and the one after the last


class Tokenizer(ABC):
    """Text to dictionary symbols and back.

    Attributes:
        kind: "sentencepiece", "gpt2" or "bert".
        files: the names of its files in the tokenizer folder -> where they lie now.
        symbols: its vocabulary as it stands in dict.txt, without the five special symbols.
    """

    kind: ClassVar[str]
    files: dict[str, Path]
    symbols: list[str]

    @abstractmethod
    def encode(self, text: str) -> list[str]:
        """Returns dictionary symbols, without <s> and </s>; "<unk>" for what the vocabulary cannot write."""

    @abstractmethod
    def encode_with_offsets(self, text: str) -> tuple[list[str], list[Offsets]]:
        """Returns what ``encode`` does, and for each symbol where in ``text`` its characters stand."""

    @abstractmethod
    def decode(self, symbols: Sequence[str]) -> str:
        """Returns readable text. <s>, </s> and <pad> vanish, <mask> and <unk> are shown as words."""

    @abstractmethod
    def starts_word(self, symbol: str) -> bool:
        """Whether a word begins with this symbol. True for special symbols and madeupwords, as in fairseq."""

    @abstractmethod
    def surface(self, symbol: str) -> str:
        """The text of one symbol inside a sentence, with the space before it where it starts a word."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Reads the tokeniser's files from a folder.

        Raises:
            UserError: a file is missing or not what its name says.
        """

    def save(self, folder: Path) -> None:
        """Copies the tokeniser's files into a folder, made where absent."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in self.files.items():
            if path.resolve() != (folder / name).resolve():
                shutil.copyfile(path, folder / name)
        if options := self.options():
            (folder / _OPTIONS_FILE).write_text(json.dumps(options) + "\n", encoding="utf-8")

    def options(self) -> dict[str, Any]:
        return {}


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model (BPE, unigram, ...); its whole vocabulary but its control and unknown pieces."""

    kind = "sentencepiece"
    _FILE = "sentencepiece.model"

    def __init__(self, model: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        hash_file(model)  # speaks up where the file is missing, empty or unreadable
        try:
            self._model = SentencePieceProcessor(model_file=str(model))
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{model} is no SentencePiece model; give the .model file of spm_train"
            ) from error
        size = self._model.get_piece_size()
        if size == 0:
            raise UserError(f"{model} is a SentencePiece model without pieces; give another one")
        self.files = {self._FILE: model}
        self.symbols = [
            piece
            for index in range(size)
            if not (self._model.is_control(index) or self._model.is_unknown(index))
            and (piece := self._model.id_to_piece(index)) not in SPECIAL_SYMBOLS
        ]
        self._known = frozenset(self.symbols)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(folder / cls._FILE)

    def encode(self, text: str) -> list[str]:
        known = self._known
        pieces = self._model.encode(text, out_type=str)
        return [piece if piece in known else UNK_SYMBOL for piece in pieces]

    def encode_with_offsets(self, text: str) -> tuple[list[str], list[Offsets]]:
        encoded = self._model.encode(text, return_type="offset_mapping")
        symbols = [piece if piece in self._known else UNK_SYMBOL for piece in encoded["pieces"]]
        return symbols, encoded["offsets"]

    def decode(self, symbols: Sequence[str]) -> str:
        text = ""
        for run, special in _runs(symbols):
            # A piece that the model does not know comes back as it is.
            part = run[0] if special else self._model.decode_pieces(run).replace("▁", " ")
            # SentencePiece drops the space before the first piece, be it the text's beginning or not.
            if (special and not text.endswith(" ")) or (run[0].startswith("▁") and not part.startswith(" ")):
                part = " " + part
            text += part
        return text.removeprefix(" ")

    def starts_word(self, symbol: str) -> bool:
        return symbol.startswith(("▁", FILLER_PREFIX)) or symbol in SPECIAL_SYMBOLS

    def surface(self, symbol: str) -> str:
        return " " + symbol if symbol in SPECIAL_SYMBOLS else symbol.replace("▁", " ")


class Gpt2Tokenizer(Tokenizer):
    """GPT-2's byte-level BPE from encoder.json and vocab.bpe, read by Hugging Face tokenizers.

    Gives the ids of fairseq's own (pure Python) encoder, several times faster.
    """

    kind = "gpt2"
    _FILES = ("encoder.json", "vocab.bpe")

    def __init__(self, encoder_json: Path, vocab_bpe: Path) -> None:
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers

        vocabulary = _read_encoder_json(encoder_json)
        try:
            model = models.BPE(vocabulary, _read_merges(vocab_bpe))
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"{vocab_bpe} does not belong to {encoder_json} ({first_line(error)}); "
                "give the vocab.bpe that came with it"
            ) from error
        self._backend = Backend(model)
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._backend.decoder = decoders.ByteLevel()
        self.files = dict(zip(self._FILES, (encoder_json, vocab_bpe), strict=True))
        self.symbols = [str(index) for index in range(len(vocabulary))]

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(*(folder / name for name in cls._FILES))

    def encode(self, text: str) -> list[str]:
        symbols = self.symbols
        return [symbols[index] for index in self._backend.encode(text).ids]

    def encode_with_offsets(self, text: str) -> tuple[list[str], list[Offsets]]:
        encoded = self._backend.encode(text)
        return [self.symbols[index] for index in encoded.ids], encoded.offsets

    def decode(self, symbols: Sequence[str]) -> str:
        text = ""
        for run, special in _runs(symbols):
            if special:
                text += run[0] if not text or text.endswith(" ") else " " + run[0]
            else:
                ids = [int(symbol) for symbol in run if symbol.isdecimal()]
                text += self._backend.decode(ids, skip_special_tokens=False)
        return text

    def starts_word(self, symbol: str) -> bool:
        if not symbol.isdecimal():
            return symbol in SPECIAL_SYMBOLS or symbol.startswith(FILLER_PREFIX)
        token = self._backend.id_to_token(int(symbol))
        return token is not None and token.startswith("Ġ")  # the byte-level alphabet's space

    def surface(self, symbol: str) -> str:
        return self.decode([symbol])


class BertTokenizer(Tokenizer):
    """BERT's WordPiece from a vocab.txt, read by Hugging Face tokenizers.

    [PAD], [UNK], [CLS], [SEP] and [MASK] are fairseq's <pad>, <unk>, <s>, </s> and <mask>; the rest of
    vocab.txt, the [unusedN] included, makes up the dictionary in its order.
    """

    kind = "bert"
    _FILE = "vocab.txt"
    _SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

    def __init__(self, vocab: Path, *, lowercase: bool = False) -> None:
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, normalizers, pre_tokenizers

        words = _read_wordpieces(vocab)
        ids = {word: index for index, word in enumerate(words)}
        self._backend = Backend(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
        self._backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        self._backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._decoder = decoders.WordPiece(prefix="##", cleanup=True)
        self._lowercase = lowercase
        self.files = {self._FILE: vocab}
        self.symbols = [word for word in words if word not in self._SPECIALS]

    @classmethod
    def load(cls, folder: Path) -> Self:
        # Without options: a vocab.txt that somebody put there by hand.
        options = read_json(folder / _OPTIONS_FILE, "prepare the data again", optional=True)
        return cls(folder / cls._FILE, **options)

    def encode(self, text: str) -> list[str]:
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[str], list[Offsets]]:
        encoded = self._backend.encode(text)
        return [UNK_SYMBOL if token == "[UNK]" else token for token in encoded.tokens], encoded.offsets

    def decode(self, symbols: Sequence[str]) -> str:
        return self._decoder.decode([symbol for symbol in symbols if symbol not in _SILENT])

    def starts_word(self, symbol: str) -> bool:
        return not symbol.startswith("##") or symbol == "##"

    def surface(self, symbol: str) -> str:
        return " " + symbol if self.starts_word(symbol) else symbol[2:]

    def options(self) -> dict[str, Any]:
        return {"lowercase": self._lowercase}


KINDS: dict[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (SentencePieceTokenizer, Gpt2Tokenizer, BertTokenizer)
}


def load_tokenizer(data_dir: str | Path, kind: str | None = None) -> Tokenizer:
    """Loads the tokeniser that a data folder was prepared with.

    Args:
        data_dir: folder with manifest.json and tokenizer/; of colon-separated shards, the first one counts.
        kind: "sentencepiece", "gpt2" or "bert", instead of what the manifest says.

    Raises:
        UserError: nothing says which kind it is, the kind is unknown, or its files are missing or damaged.
    """
    folder = first_shard(data_dir)
    if kind is None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(
                f"{folder} has no manifest.json that names its tokeniser; prepare the data with "
                f"fairseq-masking prepare corpus, or give --bpe ({', '.join(KINDS)}) and put its files into "
                f"{folder / TOKENIZER_FOLDER}"
            )
        kind = manifest.tokenizer["kind"]
    if kind not in KINDS:
        raise UserError(f"unknown tokeniser kind {kind!r}; known are {', '.join(KINDS)}")
    return KINDS[kind].load(folder / TOKENIZER_FOLDER)


def _runs(symbols: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
    """Runs of ordinary symbols, and one by one the special ones that are shown."""
    shown = [symbol for symbol in symbols if symbol not in _SILENT]
    for special, run in groupby(shown, key=lambda symbol: symbol in SPECIAL_SYMBOLS):
        if special:
            yield from (([symbol], True) for symbol in run)
        else:
            yield list(run), False


def _read_encoder_json(path: Path) -> dict[str, int]:
    hash_file(path)
    vocabulary = read_json(path, "give GPT-2's encoder.json")
    if (
        len(vocabulary) < 256
        or not all(type(index) is int for index in vocabulary.values())
        or sorted(vocabulary.values()) != list(range(len(vocabulary)))
    ):
        raise UserError(
            f"{path} does not map 256 symbols or more to the ids 0, 1, ...; give GPT-2's encoder.json"
        )
    return vocabulary


def _read_merges(path: Path) -> list[tuple[str, str]]:
    hash_file(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not UTF-8 ({first_line(error)}); give GPT-2's vocab.bpe") from error
    merges = []
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if len(parts) == 2 and not (number == 1 and line.startswith("#version")):
            merges.append((parts[0], parts[1]))
        elif parts and number > 1:
            raise UserError(f"{path}: line {number} is no pair of symbols; give GPT-2's vocab.bpe")
    if not merges:
        raise UserError(f"{path} holds no merges; give GPT-2's vocab.bpe")
    return merges


def _read_wordpieces(path: Path) -> list[str]:
    hash_file(path)
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not UTF-8 ({first_line(error)}); give a BERT vocab.txt") from error
    words = [line.removesuffix("\r") for line in lines]
    seen: set[str] = set()
    for number, word in enumerate(words, start=1):
        if not word or " " in word or word in SPECIAL_SYMBOLS or word in seen:
            fault = "stands there twice" if word in seen else "is no WordPiece"
            raise UserError(f"{path}: line {number} ({word[:40]!r}) {fault}; give a BERT vocab.txt")
        seen.add(word)
    if "[UNK]" not in seen:
        raise UserError(f"{path} has no [UNK]; give a BERT vocab.txt")
    return words
