"""Text for a terminal: wrapped words with a line of their own below, without what would steer it."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fairseq_masking.measure.show.mask_colours import terminal_colour

__all__ = ["JOINT", "Word", "columns_of", "on_background", "printable", "wrap"]

JOINT = "·"  # between the tokens of a word


class Word(NamedTuple):
    """A word, what stands under it, and the columns that both take, without their colours' signs."""

    text: str
    below: str
    columns: int


def wrap(words: Iterable[Word], width: int) -> Iterator[str]:
    """Yield lines at most ``width`` columns wide (a longer word stands alone), each with what is below it."""
    above, below, used = "", "", 0
    for word in words:
        if used and used + 1 + word.columns > width:
            yield from (line.rstrip() for line in (above, below) if line.strip())
            above, below, used = "", "", 0
        space = " " if used else ""
        above, below = above + space + word.text, below + space + word.below.ljust(word.columns)
        used += len(space) + word.columns
    yield from (line.rstrip() for line in (above, below) if line.strip())


def on_background(text: str, relative: float, *, marked: bool = False) -> str:
    """``text`` in black on the colour of ``mask_colours``' scale; bold and underlined where ``marked``."""
    weight = "1;4;" if marked else ""
    return f"\033[{weight}38;5;16;48;5;{terminal_colour(relative)}m{text}\033[0m"


def printable(text: str) -> str:
    """Without what would steer the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def columns_of(text: str) -> int:
    """The columns that printable text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
