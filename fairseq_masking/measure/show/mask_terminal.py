"""Shown masks as text for a terminal: colours, brackets around drawn positions, numbers under the tokens."""

from collections.abc import Iterable, Iterator

from fairseq_masking.measure.show.mask_colours import LEGEND
from fairseq_masking.measure.show.shown_masks import ShownBlock, ShownToken
from fairseq_masking.measure.show.terminal import JOINT, Word, columns_of, on_background, printable, wrap
from fairseq_masking.measure.show.text_blocks import lines_of_words

__all__ = ["legend_line", "render_blocks"]


def legend_line(*, colour: bool) -> str:
    """Return what the signs mean, in a line."""
    words = "[drawn]   numbers: % of the uniform probability"
    if not colour:
        return words
    swatches = "".join(on_background(f" {text} ", value) for value, text in LEGEND)
    return f"{words}   {swatches} times uniform"


def render_blocks(blocks: Iterable[ShownBlock], *, width: int, colour: bool, numbers: bool) -> Iterator[str]:
    """Yield lines at most ``width`` wide (a longer word stands alone), an empty one between blocks."""
    for number, block in enumerate(blocks):
        if number:
            yield ""
        for line in lines_of_words(block.tokens):
            yield from wrap((_word(word, colour=colour, numbers=numbers) for word in line), width)


def _word(word: list[ShownToken], *, colour: bool, numbers: bool) -> Word:
    texts, figures, columns = [], [], 0
    for token in word:
        text = printable(token.text)
        shown = f"[{text}]" if token.draw is not None else text
        figure = f"{100 * token.relative:.0f}" if numbers and token.relative is not None else ""
        taken, own = max(columns_of(shown), len(figure)), columns_of(shown)
        if colour and token.relative is not None:
            shown = on_background(shown, token.relative, marked=token.draw is not None)
        texts.append(shown + " " * (taken - own))
        figures.append(figure.ljust(taken))
        columns += taken + (1 if len(texts) > 1 else 0)
    return Word(JOINT.join(texts), " ".join(figures), columns)
