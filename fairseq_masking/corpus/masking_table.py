"""What masking needs to know about a dictionary: which symbols are special, and where words begin."""

from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary

from fairseq_masking.masking import MaskingVocabulary
from fairseq_masking.tokenizers.base import load_tokenizer
from fairseq_masking.tokenizers.symbols import FILLER_PREFIX, MASK_SYMBOL

__all__ = ["masking_vocabulary"]


def masking_vocabulary(
    dictionary: Dictionary, *, folder: Path, bpe: Any = None, need_words: bool = False
) -> MaskingVocabulary:
    """Build the vocabulary's masking table.

    Args:
        folder: prepared corpus, whose manifest names the tokeniser.
        bpe: ``--bpe`` (a name, or Hydra's node with ``_name``), which overrides the manifest.
        need_words: also find out which symbols begin a word.
    """
    starts_word = None
    if need_words:
        tokenizer = load_tokenizer(folder, kind=bpe if bpe is None or isinstance(bpe, str) else bpe._name)
        starts_word = np.array([tokenizer.starts_word(symbol) for symbol in dictionary.symbols])
    return MaskingVocabulary.build(
        len(dictionary),
        special_ids=range(dictionary.nspecial),
        mask_index=dictionary.index(MASK_SYMBOL),
        starts_word=starts_word,
        never_drawn=[
            index for index, symbol in enumerate(dictionary.symbols) if symbol.startswith(FILLER_PREFIX)
        ],
    )
