"""Shown text in a terminal, through rich, and as an HTML page, through jinja2: on one scale of colours.

Under masks a background says how much likelier than under the uniform law a position is to be masked; the
scale is logarithmic and symmetric: 1/8 and less, ..., 1, ..., 8 times and more. Under replacements it says
what the discriminator thinks: white where it takes a token for the original (2% and less for replaced), the
darkest where it is sure that it is replaced.
"""

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.style import Style
from rich.text import Text

from fairseq_masking.figures.tables import format_table
from fairseq_masking.files import whole_file
from fairseq_masking.measure.show.shown import HEADER, ReplacedBlock, ReplacedToken, ShownBlock, ShownToken, table_rows

__all__ = [
    "DOUBTS", "TIMES_UNIFORM", "colour_of", "legend", "mask_lines", "present", "render_page", "replacement_lines",
    "scale", "terminal",
]  # fmt: skip

JOINT = "·"  # between the tokens of a word
# What a colour stands for, on the scale of masks, and its text.
TIMES_UNIFORM = ((1 / 8, "⅛"), (1 / 4, "¼"), (1 / 2, "½"), (1.0, "1"), (2.0, "2"), (4.0, "4"), (8.0, "8"))
DOUBTS = ((8 / 64, "2%"), (8 / 16, "6%"), (8 / 4, "25%"), (8.0, "100%"))
_LEGENDS = {"masks": (TIMES_UNIFORM, "times uniform"), "replacements": (DOUBTS, "taken for replaced")}

_OCTAVES = 3.0
# From white to orange; black text on the darkest has a contrast of 7.8 (WCAG AAA asks for 7). A terminal of
# 256 colours has one of its own for each of TIMES_UNIFORM.
_STOPS = np.array([(255, 255, 255), (255, 243, 214), (255, 214, 140), (255, 174, 60), (246, 138, 0)])

Placed = tuple[Text, str]  # a token or a word, and what stands under it: both of the same width


def scale(relative: float) -> float:
    """Return 0 for a position masked at most 1/8 as often as under the uniform law, 1 for 8 times or more."""
    octaves = math.log2(max(relative, 2**-_OCTAVES))
    return min(1.0, (octaves + _OCTAVES) / (2 * _OCTAVES))


def colour_of(relative: float) -> str:
    """Return the background as #rrggbb."""
    place = scale(relative) * (len(_STOPS) - 1)
    return "#" + "".join(f"{round(np.interp(place, range(len(_STOPS)), channel)):02x}" for channel in _STOPS.T)


def terminal(color: str = "auto", width: int | None = None) -> Console:
    """Return standard output, for ``auto`` without colours unless it is a terminal and NO_COLOR is not set."""
    plain = color == "never" or (color == "auto" and os.environ.get("NO_COLOR"))
    return Console(
        color_system=None if plain else "256" if color == "always" else "auto",
        force_terminal=True if color == "always" else None,
        no_color=False,  # it would leave bold and underlined text
        width=width,
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
    )


def legend(template: str, words: str, *, coloured: bool) -> Text:
    """Return what the signs mean, in a line; what the colours do too where there are any."""
    colours, meaning = _LEGENDS[template]
    swatches = [(f" {text} ", _background(value)) for value, text in colours]
    return Text.assemble(words, "   ", *swatches, f" {meaning}") if coloured else Text(words)


def mask_lines(blocks: Iterable[ShownBlock], *, width: int, numbers: bool = True) -> Iterator[Text]:
    """Yield text at most ``width`` wide (a longer word stands alone), an empty line between blocks.

    Drawn positions stand in brackets; the line below has the numbers, % of the uniform probability.
    """

    def place(token: ShownToken) -> Placed:
        text, drawn = _printable(token.text), token.draw is not None
        if token.relative is None:
            return Text(text), ""
        shown = Text.assemble((f"[{text}]" if drawn else text, _background(token.relative, marked=drawn)))
        return shown, f"{100 * token.relative:.0f}" if numbers else ""

    for number, block in enumerate(blocks):
        if number:
            yield Text()
        yield from _wrapped(block.tokens, place, width)


def replacement_lines(blocks: Sequence[ReplacedBlock], sources: Sequence[str], *, width: int) -> Iterator[Text]:
    """Yield text at most ``width`` wide and, below each block's, its table; an empty line between them.

    Masked, it is the tokens in its place that have the discriminator's colours: it sees them.
    """

    def doubted(text: str, doubt: float) -> Text:
        return Text.assemble((_printable(text), _background(8 * doubt)))

    def place(token: ReplacedToken) -> Placed:
        if not token.replacements:
            return doubted(token.text, token.doubt), ""
        put = [doubted(one.put.text, one.doubt) for _, one in token.fillings(sources)]
        return Text.assemble("[", _printable(token.text), "](", Text("/").join(put), ")"), ""

    for number, block in enumerate(blocks):
        if number:
            yield Text()
        yield from _wrapped(block.tokens, place, width)
        if block.masked:
            rows = [[_printable(cell) for cell in row] for row in table_rows(block, sources)]
            yield from map(Text, ["", *format_table(HEADER, rows).splitlines()])


def _background(relative: float, *, marked: bool = False) -> Style:
    return Style(color="color(16)", bgcolor=colour_of(relative), bold=marked, underline=marked)


def _printable(text: str) -> str:
    """Without what would steer the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _joined(joint: str, parts: Iterable[Placed]) -> Placed:
    """Side by side, each as wide as the wider of its lines."""
    texts, below = [], []
    for text, under in parts:
        width = max(text.cell_len, len(under))
        text.pad_right(width - text.cell_len)
        texts.append(text)
        below.append(under.ljust(width))
    return Text(joint).join(texts), (" " * len(joint)).join(below)


def _lines_of_words(tokens: Iterable[Any]) -> Iterator[list[list[Any]]]:
    """Yield lines of words of tokens, by their ``begins_word``; one that ``ends_line`` stands in none."""
    words: list[list[Any]] = []
    for token in tokens:
        if token.ends_line:
            yield words
            words = []
        elif token.begins_word or not words:
            words.append([token])
        else:
            words[-1].append(token)
    yield words


def _wrapped(tokens: Iterable[Any], place: Callable[[Any], Placed], width: int) -> Iterator[Text]:
    for line in _lines_of_words(tokens):
        rows: list[list[Placed]] = [[]]
        for word in (_joined(JOINT, map(place, word)) for word in line):
            if rows[-1] and sum(text.cell_len + 1 for text, _ in [*rows[-1], word]) > width + 1:
                rows.append([])
            rows[-1].append(word)
        for text, below in (_joined(" ", row) for row in rows):
            for shown in (text, Text(below)):
                shown.rstrip()
                if shown:
                    yield shown


def render_page(template: str, **values: Any) -> str:
    """Return a self-contained page of ``templates/``; all values, which it names in its first lines, are escaped."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    strict = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=loader, **strict)
    environment.filters |= {"colour": colour_of, "lines": _lines_of_words, "rows": table_rows, "groups": _groups}
    return environment.get_template(f"{template}.html").render(values, legend=_LEGENDS[template][0], header=HEADER)


def _groups(blocks: Iterable[ShownBlock]) -> list[list[ShownBlock]]:
    """The masks of one block of text together."""
    groups: list[list[ShownBlock]] = []
    for block in blocks:
        groups += [[]] if block.split == 0 else []
        groups[-1].append(block)
    return groups


def present(
    args: argparse.Namespace,
    template: str,
    words: str,
    lines: Callable[[int], Iterable[Text]],
    said: Sequence[str],
    **page: Any,
) -> None:
    """Print the lines for the terminal's width and a legend, or write ``--out``, the page; print what is said."""
    console = terminal(args.color, args.width)
    if args.out is None:
        for line in lines(console.width):
            console.print(line)
        console.print()
        console.print(legend(template, words, coloured=console.color_system is not None))
    for line in said:
        console.print(line)
    if args.out is not None:
        with whole_file(args.out) as partial:
            partial.write_text(render_page(template, **page), encoding="utf-8")
        console.print(f"page: {args.out}")
