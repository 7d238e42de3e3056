"""A Hugging Face folder's tokeniser as one of ours, to prepare a corpus with a model's own symbols."""

import json
from pathlib import Path
from typing import Any

from fairseq_masking.errors import UserError
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers import (
    BertTokenizer,
    Gpt2Tokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)
from fairseq_masking.tokenizers.gpt2 import read_merges
from fairseq_masking.tokenizers.hugging_face_files import hugging_face_tokens, special_tokens
from fairseq_masking.tokenizers.symbols import BERT_SYMBOLS, SPECIAL_SYMBOLS

__all__ = ["import_tokenizer"]

_SENTENCEPIECE_FILES = (
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)


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
    tokens = hugging_face_tokens(source)
    ordered = sorted(tokens, key=lambda token: tokens[token])
    special = special_tokens(source, tokens)
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
        f"{source} has no tokeniser of a kind known here (WordPiece, byte-level BPE or a SentencePiece .model"
        " file)"
    )


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
