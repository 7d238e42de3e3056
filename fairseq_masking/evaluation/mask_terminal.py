"""Shown masks as text for a terminal: colours, brackets around drawn positions, numbers under the tokens."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

from fairseq_masking.evaluation.mask_colours import LEGEND, terminal_colour
from fairseq_masking.evaluation.shown_masks import ShownBlock, ShownToken

__all__ = ["legend_line", "render_blocks"]

_JOINT = "·"  # between the tokens of a word
_RESET = "\033[0m"


def legend_line(*, colour: bool) -> str:
    """Return what the signs mean, in a line."""
    words = "[drawn]   numbers: % of the uniform probability"
    if not colour:
        return words
    swatches = "".join(f"{_background(value)} {text} {_RESET}" for value, text in LEGEND)
    return f"{words}   {swatches} times uniform"


def render_blocks(blocks: Iterable[ShownBlock], *, width: int, colour: bool, numbers: bool) -> Iterator[str]:
    """Yield lines at most ``width`` wide (a longer word stands alone), an empty one between blocks."""
    for number, block in enumerate(blocks):
        if number:
            yield ""
        for line in _lines(block.tokens):
            yield from _wrap(line, width=width, colour=colour, numbers=numbers)


def _lines(tokens: list[ShownToken]) -> Iterator[list[list[ShownToken]]]:
    """Lines of words of tokens."""
    words: list[list[ShownToken]] = []
    for token in tokens:
        if token.ends_line:
            yield words
            words = []
        elif token.begins_word or not words:
            words.append([token])
        else:
            words[-1].append(token)
    yield words


def _wrap(words: list[list[ShownToken]], *, width: int, colour: bool, numbers: bool) -> Iterator[str]:
    above, below, used = "", "", 0
    for word in words:
        text, figures, columns = _word(word, colour=colour, numbers=numbers)
        if used and used + 1 + columns > width:
            yield from (line for line in (above, below) if line)
            above, below, used = "", "", 0
        space = " " if used else ""
        above, used = above + space + text, used + len(space) + columns
        below = below + space + figures if numbers else ""
    if above:
        yield from (line.rstrip() for line in (above, below) if line)


def _word(word: list[ShownToken], *, colour: bool, numbers: bool) -> tuple[str, str, int]:
    """The word, the numbers under it, and the columns that both take."""
    texts, figures, columns = [], [], 0
    for token in word:
        text = _printable(token.text)
        shown = f"[{text}]" if token.draw is not None else text
        figure = f"{100 * token.relative:.0f}" if numbers and token.relative is not None else ""
        taken, own = max(_columns(shown), len(figure)), _columns(shown)
        if colour and token.relative is not None:
            weight = "1;4;" if token.draw is not None else ""
            shown = f"{_background(token.relative, weight)}{shown}{_RESET}"
        texts.append(shown + " " * (taken - own))
        figures.append(figure.ljust(taken))
        columns += taken + (1 if len(texts) > 1 else 0)
    return _JOINT.join(texts), " ".join(figures), columns


def _background(relative: float, weight: str = "") -> str:
    return f"\033[{weight}38;5;16;48;5;{terminal_colour(relative)}m"


def _printable(text: str) -> str:
    """Without what would steer the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _columns(text: str) -> int:
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
