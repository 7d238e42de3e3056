"""Which row of a source's embedding stands for which symbol of our dictionary.

Names meet in Hugging Face's terms: WordPieces and SentencePiece's pieces are the same on both sides, GPT-2's
symbols are ids here ("262") and byte-level texts there ("Ġthe"). The special symbols have fairseq's names.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_masking.checkpoints.reading import read_json
from fairseq_masking.corpus.dictionary import load_dictionary
from fairseq_masking.corpus.manifest import DICTIONARY_FILE
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.base import Gpt2Tokenizer, Tokenizer
from fairseq_masking.tokenizers.symbols import (
    BOS_SYMBOL,
    EOS_SYMBOL,
    FILLER_PREFIX,
    MASK_SYMBOL,
    PAD_SYMBOL,
    UNK_SYMBOL,
)

__all__ = [
    "ROLES",
    "dictionary_symbols",
    "embedding_rows",
    "hugging_face_symbols",
    "hugging_face_tokens",
    "special_tokens",
    "tokens_of_symbols",
]

logger = logging.getLogger(__name__)

# Hugging Face's role of a special token -> our symbol.
ROLES = {
    "cls_token": BOS_SYMBOL,
    "pad_token": PAD_SYMBOL,
    "sep_token": EOS_SYMBOL,
    "unk_token": UNK_SYMBOL,
    "mask_token": MASK_SYMBOL,
}
_BERT_ROLES = dict(zip(ROLES, ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), strict=True))


def dictionary_symbols(folder: Path) -> list[str | None] | None:
    """Return the symbols of a folder's dict.txt by row, fairseq's four first; None where there is none."""
    path = folder / DICTIONARY_FILE
    return list(load_dictionary(path).symbols) if path.is_file() else None


def hugging_face_symbols(folder: Path) -> list[str | None] | None:
    """Return a Hugging Face folder's tokens by id, special ones under our names; None without tokeniser."""
    tokens = hugging_face_tokens(folder)
    if not tokens:
        return None
    ours = special_tokens(folder, tokens)
    taken = set(ours.values())
    symbols: list[str | None] = [None] * (max(tokens.values()) + 1)
    for token, index in tokens.items():
        # A token that only bears one of our special names, as <unk> in MPNet, is not what we mean by it.
        symbols[index] = ours.get(token, None if token in taken else token)
    return symbols


def hugging_face_tokens(folder: Path) -> dict[str, int]:
    """Return a folder's tokens -> ids; empty where there is no tokeniser of a known form."""
    values = read_json(folder / "tokenizer.json", optional=True)
    if values:
        model = values.get("model") or {}
        vocabulary = model.get("vocab", {})
        if isinstance(vocabulary, list):  # Unigram: pairs of piece and score
            vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        return {**vocabulary, **{token["content"]: token["id"] for token in values.get("added_tokens", [])}}
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        return {line: index for index, line in enumerate(lines)}
    return read_json(folder / "vocab.json", optional=True)


def special_tokens(folder: Path, tokens: dict[str, int]) -> dict[str, str]:
    """Return a folder's special tokens -> ours, by their roles; BERT's names where nothing says them."""
    config = read_json(folder / "tokenizer_config.json", optional=True)
    table = {**read_json(folder / "special_tokens_map.json", optional=True), **config}
    found = {}
    for role, symbol in ROLES.items():
        named = _content(table.get(role)) or (_BERT_ROLES[role] if _BERT_ROLES[role] in tokens else symbol)
        if named in tokens:
            found[named] = symbol
    return found


def tokens_of_symbols(symbols: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Return dictionary symbols in Hugging Face's terms."""
    if not isinstance(tokenizer, Gpt2Tokenizer):
        return list(symbols)
    texts = {str(index): token for token, index in read_json(tokenizer.files["encoder.json"]).items()}
    return [texts.get(symbol, symbol) for symbol in symbols]


def embedding_rows(wanted: Sequence[str], present: Sequence[str | None], path: Path) -> list[int | None]:
    """Return, for each wanted symbol, its row among the present ones; None for a new <mask>.

    Raises:
        UserError: symbols are missing.
    """
    rows = {symbol: row for row, symbol in enumerate(present) if symbol is not None}
    missing = [
        symbol
        for symbol in wanted
        if symbol not in rows and symbol != MASK_SYMBOL and not symbol.startswith(FILLER_PREFIX)
    ]
    if missing:
        raise UserError(
            f"the corpus's dictionary has {len(missing)} of {len(wanted)} symbols that {path} lacks, such as"
            f" {missing[0]!r}: prepare it with scripts/prepare_corpus.sh --tokenizer-from FOLDER, the model's"
            " own or that of its data"
        )
    unused = len(rows.keys() - set(wanted))
    if unused:
        logger.info("%d of %d symbols of %s are not in the corpus's dictionary", unused, len(rows), path)
    return [rows.get(symbol) for symbol in wanted]


def _content(token: Any) -> str | None:
    """A special token as tokenizer_config.json writes it: text, or an object with the text inside."""
    return token.get("content") if isinstance(token, dict) else token
