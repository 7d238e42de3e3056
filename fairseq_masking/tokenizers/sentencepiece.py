"""SentencePiece models (BPE, unigram, ...), and the training of a BPE."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.base import IdsN, Offsets, Tokenizer, in_one
from fairseq_masking.tokenizers.symbols import FILLER_PREFIX, MASK_SYMBOL, PAD_SYMBOL, SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = ["NORMALIZATIONS", "BpeTraining", "SentencePieceTokenizer", "model_proto", "train_bpe"]

# Its trainer takes what a special symbol is called out of the text, with letters that may stand nowhere else.
_WRITTEN_SPECIAL = re.compile(rf"<(?={'|'.join(symbol[1:] for symbol in SPECIAL_SYMBOLS)})")
NORMALIZATIONS = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")
# SentencePiece leaves out longer lines. Words are counted one by one, so cutting at a space changes nothing.
_MAX_CHARACTERS = 1024
_REMEMBERED = 1 << 20  # pieces of words, some 80 bytes each


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; its whole vocabulary but its control and unknown pieces."""

    kind = "sentencepiece"
    file_names = ("sentencepiece.model",)

    def __init__(self, model: Path) -> None:
        super().__init__(model)
        try:
            self._model = SentencePieceProcessor(model_file=str(model))
        except (RuntimeError, OSError) as error:
            raise UserError(f"{model} is no SentencePiece model; give the .model file of spm_train") from error
        self._pieces = [self._model.id_to_piece(index) for index in range(self._model.get_piece_size())]
        if not self._pieces:
            raise UserError(f"{model} is a SentencePiece model without pieces; give another one")
        self.symbols = [
            piece
            for index, piece in enumerate(self._pieces)
            if not (self._model.is_control(index) or self._model.is_unknown(index)) and piece not in SPECIAL_SYMBOLS
        ]
        self._known = frozenset(self.symbols)
        self._pieces_of: dict[str, list[int]] = {}  # of words

    def encode(self, text: str) -> list[str]:
        return self._symbols_of(self._model.encode(text, out_type=str))

    def encode_lines(self, lines: Sequence[str], indices: Mapping[str, int], unk: int) -> tuple[IdsN, IdsN]:
        index_of = [indices.get(symbol, unk) for symbol in self._symbols_of(self._pieces)]
        pieces_of = self._pieces_of if self._words_apart else {}  # a text's words are few, its lines are not
        parts = [line.split(" ") if self._words_apart and "▁" not in line else [line] for line in lines]
        new = list(set(chain.from_iterable(parts)) - pieces_of.keys())
        pieces_of.update(zip(new, self._model.encode(new, num_threads=1), strict=True))
        pieces_N, sizes_L = in_one([list(chain.from_iterable(map(pieces_of.__getitem__, line))) for line in parts])
        if sum(map(len, pieces_of.values())) > _REMEMBERED:
            pieces_of.clear()
        return np.array(index_of)[pieces_N], sizes_L

    def encode_with_offsets(self, text: str) -> tuple[list[str], list[Offsets]]:
        encoded = self._model.encode(text, return_type="offset_mapping")
        return self._symbols_of(encoded["pieces"]), encoded["offsets"]

    def encode_further(self, text: str) -> list[str]:
        if text[:1].isspace():
            return self.encode(text)
        return self._symbols_of(self._further.encode(text, out_type=str))

    def normalize(self, text: str) -> str:
        return self._model.normalize(text).replace("▁", " ")

    def join(self, symbols: Sequence[str]) -> str:
        return self._model.decode_pieces(list(symbols)).replace("▁", " ")  # one that it does not know stays as it is

    def starts_word(self, symbol: str) -> bool:
        return symbol.startswith(("▁", FILLER_PREFIX)) or symbol in SPECIAL_SYMBOLS

    def surface(self, symbol: str) -> str:
        return " " + symbol if symbol in SPECIAL_SYMBOLS else symbol.replace("▁", " ")

    @cached_property
    def _words_apart(self) -> bool:
        """Whether a text's symbols are those of its words: no merge, rule or run of unknowns crosses a space.

        Not of a unigram model, whose sums round otherwise in a longer text.
        """
        proto = model_proto(self.files["sentencepiece.model"])
        rules, trained = proto.normalizer_spec, proto.trainer_spec
        usual = rules.add_dummy_prefix and rules.remove_extra_whitespaces and rules.escape_whitespaces
        usual &= rules.name in NORMALIZATIONS and not trained.treat_whitespace_as_suffix and "▁" in self._known
        crossing = any("▁" in piece.piece[1:] or piece.type == piece.USER_DEFINED for piece in proto.pieces)
        return trained.model_type == trained.BPE and usual and not crossing

    @cached_property
    def _further(self) -> Any:
        """The same model without the space that it puts before every text."""
        proto = model_proto(self.files["sentencepiece.model"])
        proto.normalizer_spec.add_dummy_prefix = False
        return SentencePieceProcessor(model_proto=proto.SerializeToString())

    def _symbols_of(self, pieces: Sequence[str]) -> list[str]:
        known = self._known
        return [piece if piece in known else UNK_SYMBOL for piece in pieces]


@dataclass(frozen=True)
class BpeTraining:
    vocab_size: int = 32000  # size of the dictionary, hence rows of the embedding, special symbols included
    # share of characters that get a symbol of their own; SentencePiece's 0.9995 drops "?", "(" and "K" of English
    character_coverage: float = 0.99999
    byte_fallback: bool = False  # write the other characters as UTF-8 bytes (256 of the symbols), not as <unk>
    # train on so many lines, drawn with the seed, where the corpus has more; 0 for all
    input_sentences: int = 5_000_000
    seed: int = 1  # of that draw
    normalization: str = "nmt_nfkc"  # SentencePiece's rule; "identity" keeps every character


def model_proto(model: Path) -> Any:
    """Returns what a .model file says: its pieces, its normaliser, how it was trained."""
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model.read_bytes())
    return proto


def train_bpe(lines: Iterable[str], num_lines: int, output: Path, training: BpeTraining) -> SentencePieceTokenizer:
    """Trains a BPE on lines and writes its model to ``output``; the same lines and settings, the same bytes."""
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sample(lines, num_lines, training),
            model_writer=model,
            model_type="bpe",
            vocab_size=training.vocab_size,
            character_coverage=training.character_coverage,
            byte_fallback=training.byte_fallback,
            normalization_rule_name=training.normalization,
            # With its own <unk>, <s> and </s> these are fairseq's five special symbols: both counts agree,
            # and no merge spells one of them, which would have no place of its own in the dictionary.
            control_symbols=[PAD_SYMBOL, MASK_SYMBOL],
            shuffle_input_sentence=False,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_condense(str(error), training.vocab_size)) from error
    output.write_bytes(model.getvalue())
    return SentencePieceTokenizer(output)


def _sample(lines: Iterable[str], num_lines: int, training: BpeTraining) -> Iterator[str]:
    size = training.input_sentences
    if 0 < size < num_lines:
        chosen = np.zeros(num_lines, dtype=bool)
        rng = np.random.default_rng(training.seed)
        chosen[rng.choice(num_lines, size, replace=False, shuffle=False)] = True
        lines = compress(lines, chosen)
    for line in lines:
        line = _WRITTEN_SPECIAL.sub("< ", line)
        start = 0
        while len(line) - start > _MAX_CHARACTERS:
            end = line.rfind(" ", start + 1, start + _MAX_CHARACTERS)
            end = start + _MAX_CHARACTERS if end == -1 else end
            yield line[start:end]
            start = end
        yield line[start:]


def _condense(message: str, size: int) -> str:
    """SentencePiece's message, which names its own source file and options, as one line in our terms."""
    if limit := re.search(r"set it to a value <= (\d+)", message):
        return f"--vocab-size {size} is more than the corpus supports; give at most {limit[1]}, or more text"
    if limit := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return (
            f"--vocab-size {size} is less than the corpus's characters need; give at least {limit[1]}, "
            "or a lower --character-coverage"
        )
    return f"SentencePiece could not train a vocabulary of {size}: {' '.join(message.split())}"
