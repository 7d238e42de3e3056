"""Data of stock fairseq-preprocess: what it lacks to be exported, fine-tuned and shown is written beside it."""

from pathlib import Path

import numpy as np

from fairseq_masking.corpus.dictionary import dictionary_of, load_dictionary
from fairseq_masking.corpus.indexed import load_tokens
from fairseq_masking.corpus.manifest import (
    DICTIONARY_FILE,
    Manifest,
    finish_folder,
    read_manifest,
    settings_of,
    tokenizer_settings,
)
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers import Tokenizer, WhitespaceTokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer

__all__ = ["adopt"]

_ORIGIN = "fairseq-preprocess"


def adopt(folder: Path, tokenizer: Tokenizer | None = None) -> Manifest:
    """Writes manifest.json and tokenizer/ into a data folder; what is there stays as it is.

    Args:
        tokenizer: through which the text went before; none: its symbols stood between white space.

    Raises:
        UserError: no such data, or ``prepare corpus`` made it.
    """
    present = read_manifest(folder)
    if present is not None and present.settings.get("origin") != _ORIGIN:
        raise UserError(f"{folder} has a manifest.json already: it needs none")
    path = folder / DICTIONARY_FILE
    dictionary = load_dictionary(path, way_out="give the --destdir of fairseq-preprocess --only-source")
    tokenizer = tokenizer or WhitespaceTokenizer(path)
    dictionary_of(tokenizer, path)  # it has symbols of this tokeniser
    counts = {}
    for split in ("train", "valid", "test"):
        if split == "train" or (folder / f"{split}.idx").exists():
            data = load_tokens(str(folder / split), dictionary)
            ids = np.memmap(folder / f"{split}.bin", data._index.dtype, "r")
            lines = {"documents": len(data), "lines": len(data)}
            counts[split] = {**lines, "tokens": int(data.sizes.sum()), "unknown": int((ids == dictionary.unk()).sum())}
    settings = {"origin": _ORIGIN, "text": settings_of(TextNormalizer()), "tokenizer": tokenizer_settings(tokenizer)}
    return finish_folder(folder, tokenizer, None, settings=settings, inputs={}, counts=counts)
