"""A Hugging Face folder: where it lies, and the tokens of its tokeniser.

Names meet in Hugging Face's terms: WordPieces and SentencePiece's pieces are the same on both sides, GPT-2's
symbols are ids here ("262") and byte-level texts there ("Ġthe"). The special symbols have fairseq's names.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers import Gpt2Tokenizer, Tokenizer
from fairseq_masking.tokenizers.symbols import BERT_SYMBOLS, SPECIAL_SYMBOLS

__all__ = [
    "EXTRA",
    "ROLES",
    "find_source",
    "hugging_face_symbols",
    "hugging_face_tokens",
    "special_tokens",
    "tokens_of_symbols",
]

EXTRA = "pip install 'fairseq-masking[hf]'"
# Hugging Face's role of a special token -> our symbol.
_ROLE_NAMES = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
ROLES = dict(zip(_ROLE_NAMES, SPECIAL_SYMBOLS, strict=True))
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin"]


def find_source(path: str) -> Path:
    """Return the local file or folder, or the folder that a model of the hub was downloaded to.

    Raises:
        UserError: there is neither.
    """
    if Path(path).exists():
        return Path(path)
    if not _HUB_NAME.fullmatch(path):
        raise UserError(f"no such checkpoint or model folder: {path}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{path}: no such folder; to download models: {EXTRA}") from None
    try:
        return Path(snapshot_download(path, allow_patterns=_HUB_FILES))
    except Exception as error:  # its own errors, those of HTTP and of sockets
        reason = first_line(error)[:200].strip()
        raise UserError(
            f"{path}: no such folder, and the hub does not give it ({reason}): give a local folder"
        ) from error


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
        berts = BERT_SYMBOLS[symbol]
        named = _content(table.get(role)) or (berts if berts in tokens else symbol)
        if named in tokens:
            found[named] = symbol
    return found


def tokens_of_symbols(symbols: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Return dictionary symbols in Hugging Face's terms."""
    if not isinstance(tokenizer, Gpt2Tokenizer):
        return list(symbols)
    texts = {str(index): token for token, index in read_json(tokenizer.files["encoder.json"]).items()}
    return [texts.get(symbol, symbol) for symbol in symbols]


def _content(token: Any) -> str | None:
    """A special token as tokenizer_config.json writes it: text, or an object with the text inside."""
    return token.get("content") if isinstance(token, dict) else token
