"""Loads a fairseq dictionary for masked pre-training, or says in one line why not."""

import logging
from pathlib import Path

from fairseq.data import Dictionary

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["load_dictionary"]

logger = logging.getLogger(__name__)

_REPAIR = "prepare the corpus again with scripts/prepare_corpus.sh"


def load_dictionary(path: str | Path) -> Dictionary:
    """Reads dict.txt; <mask> is appended where it is missing, which is logged.

    Args:
        path: of the file, lines of "symbol count".

    Returns:
        The dictionary, with ``index(MASK_SYMBOL)`` the id of [MASK].

    Raises:
        UserError: the file is missing, unreadable, empty, not UTF-8, or has a line of another form.
    """
    path = Path(path)
    _check_lines(path, _read_text(path))
    try:
        dictionary = Dictionary.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: {first_line(error)}: {_REPAIR}") from error
    if MASK_SYMBOL not in dictionary.indices:
        dictionary.add_symbol(MASK_SYMBOL)
        logger.info("%s has no %s: appended as symbol %d", path, MASK_SYMBOL, dictionary.index(MASK_SYMBOL))
    return dictionary


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the data folder, or {_REPAIR}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no dictionary (byte {error.start} is not UTF-8): {_REPAIR}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {_REPAIR}") from None


def _check_lines(path: Path, text: str) -> None:
    # Like fairseq: lines end at line feeds alone, symbols may hold any other kind of space.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path} is empty: {_REPAIR}")
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        symbol, _, count = line.rstrip().removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not symbol or not (count.isascii() and count.isdigit()):
            raise UserError(
                f"{path} line {number}: {line[:40]!r} is not of the form 'symbol count': {_REPAIR}"
            )
        if symbol in seen and not line.rstrip().endswith(" #fairseq:overwrite"):
            raise UserError(f"{path} line {number}: the symbol {symbol[:40]!r} stands there twice: {_REPAIR}")
        seen.add(symbol)
