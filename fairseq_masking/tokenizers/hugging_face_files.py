"""A Hugging Face folder: where it lies, the tokens of its tokeniser, and that as one of ours.

Names meet in Hugging Face's terms: WordPieces and SentencePiece's pieces are the same on both sides, GPT-2's
symbols are ids here ("262") and byte-level texts there ("Ġthe"). The special symbols have fairseq's names.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers import BertTokenizer, Gpt2Tokenizer, SentencePieceTokenizer, Tokenizer
from fairseq_masking.tokenizers.gpt2 import read_merges
from fairseq_masking.tokenizers.symbols import BERT_SYMBOLS, SPECIAL_SYMBOLS

__all__ = ["EXTRA", "ROLES", "find_source", "hugging_face_symbols", "import_tokenizer", "tokens_of_symbols"]

EXTRA = "pip install 'fairseq-masking[hf]'"
# Hugging Face's role of a special token -> our symbol.
_ROLE_NAMES = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
ROLES = dict(zip(_ROLE_NAMES, SPECIAL_SYMBOLS, strict=True))
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin"]
_SENTENCEPIECE_FILES = (
    "sentencepiece.model", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model",
)  # fmt: skip


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
    tokens = _hugging_face_tokens(folder)
    if not tokens:
        return None
    ours = _special_tokens(folder, tokens)
    taken = set(ours.values())
    symbols: list[str | None] = [None] * (max(tokens.values()) + 1)
    for token, index in tokens.items():
        # A token that only bears one of our special names, as <unk> in MPNet, is not what we mean by it.
        symbols[index] = ours.get(token, None if token in taken else token)
    return symbols


def tokens_of_symbols(symbols: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Return dictionary symbols in Hugging Face's terms."""
    if not isinstance(tokenizer, Gpt2Tokenizer):
        return list(symbols)
    texts = {str(index): token for token, index in read_json(tokenizer.files["encoder.json"]).items()}
    return [texts.get(symbol, symbol) for symbol in symbols]


def import_tokenizer(source: Path, folder: Path) -> Tokenizer:
    """Write a tokeniser's files in our form into ``folder`` and return it.

    Its symbols keep the source's order, and so does a dictionary that is made from it.

    Raises:
        UserError: no tokeniser, or one that ours cannot imitate to the letter.
    """
    if model := next((source / name for name in _SENTENCEPIECE_FILES if (source / name).is_file()), None):
        return SentencePieceTokenizer(model)
    folder.mkdir(parents=True, exist_ok=True)
    values = read_json(source / "tokenizer.json", optional=True)
    kind = (values.get("model") or {}).get("type")
    tokens = _hugging_face_tokens(source)
    ordered = sorted(tokens, key=lambda token: tokens[token])
    special = _special_tokens(source, tokens)
    plain = [token["content"] for token in values.get("added_tokens", []) if not token.get("special")]
    if added := [token for token in plain if token not in special]:
        raise UserError(
            f"{source}: its tokeniser has {len(added)} added tokens, such as {added[0]!r}, which it finds"
            " before words are split and ours does not: only the vocabulary it was trained with will do"
        )
    if kind == "WordPiece" or (not values and (source / "vocab.txt").is_file()):
        return _wordpiece(source, folder, ordered, special, values)
    if kind == "BPE" or (not values and (source / "merges.txt").is_file()):
        return _byte_level(source, folder, ordered, values)
    raise UserError(
        f"{source} has no tokeniser of a kind known here (WordPiece, byte-level BPE or a SentencePiece .model file)"
    )


def _hugging_face_tokens(folder: Path) -> dict[str, int]:
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


def _special_tokens(folder: Path, tokens: dict[str, int]) -> dict[str, str]:
    """Return a folder's special tokens -> ours, by their roles; BERT's names where nothing says them."""
    config = read_json(folder / "tokenizer_config.json", optional=True)
    table = {**read_json(folder / "special_tokens_map.json", optional=True), **config}
    found = {}
    for role, symbol in ROLES.items():
        berts = BERT_SYMBOLS[symbol]
        given = table.get(role)  # text, or an object with the text inside
        content = given.get("content") if isinstance(given, dict) else given
        named = content or (berts if berts in tokens else symbol)
        if named in tokens:
            found[named] = symbol
    return found


def _wordpiece(
    source: Path, folder: Path, tokens: list[str], special: dict[str, str], values: dict[str, Any]
) -> Tokenizer:
    steps = _steps(values.get("normalizer"))
    normalizer = next((step for step in steps if step["type"] == "BertNormalizer"), {})
    config = read_json(source / "tokenizer_config.json", optional=True)
    lowercase = bool(normalizer.get("lowercase", config.get("do_lower_case", True)))
    accents = normalizer.get("strip_accents", config.get("strip_accents"))
    chinese = normalizer.get("handle_chinese_chars", config.get("tokenize_chinese_chars", True))
    if not chinese or accents not in (None, lowercase) or (values and not normalizer):
        raise UserError(f"{source}: its tokeniser does not treat accents or Chinese as BERT's does")
    renamed = [BERT_SYMBOLS[special[token]] if token in special else token for token in tokens]
    # MPNet's vocabulary holds BERT's special tokens beside its own: one line each is enough.
    lines = dict.fromkeys(token for token in renamed if token not in SPECIAL_SYMBOLS)
    vocab = folder / "vocab.txt"
    vocab.write_text("".join(f"{token}\n" for token in lines), encoding="utf-8")
    return BertTokenizer(vocab, lowercase=lowercase)


def _byte_level(source: Path, folder: Path, tokens: list[str], values: dict[str, Any]) -> Tokenizer:
    if values:
        steps = values.get("pre_tokenizer") or {}
        model = values["model"]
        foreign = {step["type"] for step in _steps(values.get("normalizer"))} - {"Strip", "Lowercase"}
        if steps.get("type") != "ByteLevel" or steps.get("add_prefix_space") or foreign:
            raise UserError(f"{source}: its BPE is not GPT-2's byte-level one without a space in front")
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    else:
        merges = [" ".join(pair) for pair in read_merges(source / "merges.txt")]
    words = [token for token in tokens if token not in SPECIAL_SYMBOLS]
    encoder_json, vocab_bpe = folder / "encoder.json", folder / "vocab.bpe"
    encoder_json.write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    vocab_bpe.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return Gpt2Tokenizer(encoder_json, vocab_bpe)


def _steps(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What a tokenizer.json does to the text, one by one."""
    if normalizer is None:
        return []
    if normalizer["type"] != "Sequence":
        return [normalizer]
    return [step for part in normalizer["normalizers"] for step in _steps(part)]
