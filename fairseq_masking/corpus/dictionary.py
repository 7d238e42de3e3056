"""fairseq's dictionary: read and checked, made from a tokeniser, told from others, and as the table that masking asks.

Symbols have ids by their lines in dict.txt, after fairseq's own four; <mask> is one of them.
"""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary

from fairseq_masking.corpus.manifest import DICTIONARY_FILE, check_contents, load_tokenizer, read_manifest
from fairseq_masking.errors import PREPARE_AGAIN, UserError, first_line
from fairseq_masking.files import hash_json, open_binary
from fairseq_masking.masking import MaskingVocabulary
from fairseq_masking.tokenizers import Tokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer
from fairseq_masking.tokenizers.symbols import FILLER_PREFIX, MASK_SYMBOL

__all__ = [
    "check_shards", "class_names", "dictionary_of", "identity", "ids_of", "load_dictionary", "masking_vocabulary",
]  # fmt: skip

logger = logging.getLogger(__name__)

_OF_DOCUMENTS = ("split_sentences", "moses_lang")  # where lines end is no part of how a text is written in symbols


def load_dictionary(path: str | Path, *, way_out: str = PREPARE_AGAIN) -> Dictionary:
    """Reads dict.txt, with a ``way_out`` where it is none; <mask> is appended where it is missing, which is logged."""
    with open_binary(path, way_out) as file:
        content = file.read()
    try:
        _check_lines(content.decode("utf-8"))
        dictionary = Dictionary.load(str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no dictionary (byte {error.start} is not UTF-8): {way_out}") from None
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: {first_line(error)}: {way_out}") from error
    if MASK_SYMBOL not in dictionary.indices:
        dictionary.add_symbol(MASK_SYMBOL)
        logger.info("%s has no %s: appended as symbol %d", path, MASK_SYMBOL, dictionary.index(MASK_SYMBOL))
    return dictionary


def class_names(data: Path) -> tuple[str, ...]:
    """Returns the classes of a labelled task's prepared data in the order of their numbers; () for none."""
    path = data / "label" / "dict.txt"
    if not path.exists():
        return ()
    check_contents(path)
    lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 may be in a name
    return tuple(line.rpartition(" ")[0] for line in lines if line)


def dictionary_of(tokenizer: Tokenizer, path: Path | None = None) -> Dictionary:
    """The dictionary to binarise with: that of ``path``, else the tokeniser's vocabulary in its order and <mask>."""
    if path is not None:
        dictionary = load_dictionary(path, way_out="give the dict.txt of a checkpoint or a corpus")
        if not any(symbol in dictionary for symbol in tokenizer.symbols):
            raise UserError(
                f"{path} holds not one symbol of the {tokenizer.kind} tokeniser (such as "
                f"{tokenizer.symbols[-1]!r}); give the dict.txt that belongs to it"
            )
        return dictionary
    dictionary = Dictionary()
    for symbol in tokenizer.symbols:
        if "\n" in symbol or "\r" in symbol or symbol in dictionary:
            source = next(iter(tokenizer.files.values()))
            raise UserError(f"{source}: symbol {symbol!r} cannot stand in dict.txt; give another tokeniser")
        dictionary.add_symbol(symbol)
    dictionary.add_symbol(MASK_SYMBOL)
    return dictionary


def ids_of(symbols: Iterable[str], dictionary: Dictionary) -> list[int]:
    """The symbols' ids; that of <unk> for those that the dictionary lacks."""
    index, unk = dictionary.indices.get, dictionary.unk()
    return [index(symbol, unk) for symbol in symbols]


def identity(symbols: Sequence[str], folder: Path) -> dict[str, str]:
    """Return SHA-256 digests: "dictionary" of the symbols in their order, "tokenizer" where a manifest tells it."""
    digests = {"dictionary": hash_json(list(symbols))}
    if (manifest := read_manifest(folder)) is not None:
        usual = dataclasses.asdict(TextNormalizer())
        text = {name: value for name, value in manifest.settings["text"].items() if value != usual.get(name)}
        text = {name: value for name, value in text.items() if name not in _OF_DOCUMENTS}
        options = {name: value for name, value in manifest.settings["tokenizer"].items() if name != "trained"}
        options |= manifest.tokenizer["files"]
        digests["tokenizer"] = hash_json([options, manifest.tokenizer["kind"], text])
    return digests


def check_shards(symbols: Sequence[str], folders: Sequence[Path]) -> None:
    """Check that data folders, the first of which has these symbols, have one dictionary and one tokeniser."""
    first = identity(symbols, folders[0])
    for folder in folders[1:]:
        other = identity(load_dictionary(folder / DICTIONARY_FILE).symbols, folder)
        if unlike := [name for name in first.keys() & other.keys() if first[name] != other[name]]:
            raise UserError(
                f"{folder} has another {' and '.join(sorted(unlike))} than {folders[0]}: shards of one training"
                " come from one preparation (prepare corpus --shards), or from the same --tokenizer-from"
            )


def masking_vocabulary(
    dictionary: Dictionary,
    *,
    folder: Path,
    bpe: Any = None,
    need_words: bool = False,
    collocations: frozenset[bytes] = frozenset(),
) -> MaskingVocabulary:
    """What masking needs to know about a dictionary: which symbols are special, and where words begin.

    Args:
        folder: prepared corpus, whose manifest names the tokeniser.
        bpe: ``--bpe`` (a name, or Hydra's node with ``_name``), which overrides the manifest.
        collocations: n-grams to mask as a whole, by ``read_collocations``.
    """
    starts_word = None
    if need_words:
        tokenizer = load_tokenizer(folder, kind=bpe if bpe is None or isinstance(bpe, str) else bpe._name)
        starts_word = np.array([tokenizer.starts_word(symbol) for symbol in dictionary.symbols])
    fillers = [index for index, symbol in enumerate(dictionary.symbols) if symbol.startswith(FILLER_PREFIX)]
    return MaskingVocabulary.build(
        len(dictionary),
        special_ids=range(dictionary.nspecial),
        mask_index=dictionary.index(MASK_SYMBOL),
        starts_word=starts_word,
        never_drawn=fillers,
        collocations=collocations,
    )


def _check_lines(text: str) -> None:
    """As fairseq's: lines end at line feeds alone, symbols may hold any other kind of space."""
    seen: set[str] = set()
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        overwrites = line.rstrip().endswith(" #fairseq:overwrite")
        symbol, _, count = line.rstrip().removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not symbol or not (count.isascii() and count.isdigit()):
            raise ValueError(f"line {number}: {line[:40]!r} is not of the form 'symbol count'")
        if symbol in seen and not overwrites:
            raise ValueError(f"line {number}: the symbol {symbol[:40]!r} stands there twice")
        seen.add(symbol)
