"""BERT's WordPiece."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.backend import BackendTokenizer
from fairseq_masking.tokenizers.base import SILENT_SYMBOLS, read_utf8_lines
from fairseq_masking.tokenizers.symbols import BERT_SYMBOLS, SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = ["BertTokenizer", "wordpiece_backend"]

_BERT_UNK = BERT_SYMBOLS[UNK_SYMBOL]


class BertTokenizer(BackendTokenizer):
    """BERT's WordPiece from a vocab.txt, read by Hugging Face tokenizers.

    [PAD], [UNK], [CLS], [SEP] and [MASK] are fairseq's <pad>, <unk>, <s>, </s> and <mask>; the rest of
    vocab.txt, the [unusedN] included, makes up the dictionary in its order.
    """

    kind = "bert"
    file_names = ("vocab.txt",)

    def __init__(self, vocab: Path, *, lowercase: bool = False) -> None:
        super().__init__(vocab, lowercase=lowercase)
        words = _read_wordpieces(vocab)
        self.backend = wordpiece_backend(
            {word: index for index, word in enumerate(words)}, unknown=_BERT_UNK, lowercase=lowercase
        )
        self.by_id = [UNK_SYMBOL if word == _BERT_UNK else word for word in words]
        self.symbols = [word for word in words if word not in BERT_SYMBOLS.values()]

    def decode(self, symbols: Sequence[str]) -> str:
        return self.backend.decoder.decode([symbol for symbol in symbols if symbol not in SILENT_SYMBOLS])


def wordpiece_backend(ids: dict[str, int], *, unknown: str, **text: Any) -> Any:
    """Returns Hugging Face's WordPiece as BERT has it, over these tokens -> ids; ``text``: of its normaliser."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    backend = Backend(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(**text)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return backend


def _read_wordpieces(path: Path) -> list[str]:
    words = read_utf8_lines(path, "give a BERT vocab.txt")
    seen: set[str] = set()
    for number, word in enumerate(words, start=1):
        if not word or " " in word or word in SPECIAL_SYMBOLS or word in seen:
            fault = "stands there twice" if word in seen else "is no WordPiece"
            raise UserError(f"{path}: line {number} ({word[:40]!r}) {fault}; give a BERT vocab.txt")
        seen.add(word)
    if _BERT_UNK not in seen:
        raise UserError(f"{path} has no {_BERT_UNK}; give a BERT vocab.txt")
    return words
