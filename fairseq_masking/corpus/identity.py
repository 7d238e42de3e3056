"""Which dictionary and tokeniser a data folder has, as digests: two of the same size are two."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.corpus.dictionary import load_dictionary
from fairseq_masking.corpus.manifest import DICTIONARY_FILE, read_manifest
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.normalization import TextNormalizer

__all__ = ["check_shards", "identity"]

_OF_DOCUMENTS = ("split_sentences", "moses_lang")  # where lines end is no part of how a text is written in symbols


def identity(symbols: Sequence[str], folder: Path) -> dict[str, str]:
    """Return SHA-256 digests: "dictionary" of the symbols in their order, "tokenizer" where a manifest tells it."""
    digests = {"dictionary": _digest(list(symbols))}
    if (manifest := read_manifest(folder)) is not None:
        usual = dataclasses.asdict(TextNormalizer())
        text = {name: value for name, value in manifest.settings["text"].items() if value != usual.get(name)}
        text = {name: value for name, value in text.items() if name not in _OF_DOCUMENTS}
        options = {name: value for name, value in manifest.settings["tokenizer"].items() if name != "trained"}
        digests["tokenizer"] = _digest([{**options, **manifest.tokenizer["files"]}, manifest.tokenizer["kind"], text])
    return digests


def check_shards(symbols: Sequence[str], folders: Sequence[Path]) -> None:
    """Check that data folders, the first of which has these symbols, have one dictionary and one tokeniser.

    Raises:
        UserError: another one.
    """
    first = identity(symbols, folders[0])
    for folder in folders[1:]:
        other = identity(load_dictionary(folder / DICTIONARY_FILE).symbols, folder)
        if unlike := [name for name in first.keys() & other.keys() if first[name] != other[name]]:
            raise UserError(
                f"{folder} has another {' and '.join(sorted(unlike))} than {folders[0]}: shards of one training"
                " come from one preparation (prepare corpus --shards), or from the same --tokenizer-from"
            )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
