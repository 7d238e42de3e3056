"""Shown replacements as text for a terminal: what each source puts in place, and the numbers."""

from collections.abc import Iterator, Sequence

from fairseq_masking.figures.tables import format_table
from fairseq_masking.measure.show.replacement_table import HEADER, LEGEND, relative_doubt, table_rows
from fairseq_masking.measure.show.shown_replacements import ReplacedBlock, ReplacedToken
from fairseq_masking.measure.show.terminal import JOINT, Word, columns_of, on_background, printable, wrap
from fairseq_masking.measure.show.text_blocks import lines_of_words

__all__ = ["legend_line", "render_blocks"]


def legend_line(sources: Sequence[str], *, colour: bool) -> str:
    """Return what the signs mean, in a line."""
    words = f"[masked]({'/'.join(sources)})"
    if not colour:
        return words
    swatches = "".join(on_background(f" {text} ", relative_doubt(value)) for value, text in LEGEND)
    return f"{words}   {swatches} taken for replaced"


def render_blocks(
    blocks: Sequence[ReplacedBlock], sources: Sequence[str], *, width: int, colour: bool
) -> Iterator[str]:
    """Yield text at most ``width`` wide and, below each block's, its table; an empty line between them."""
    for number, block in enumerate(blocks):
        if number:
            yield ""
        for line in lines_of_words(block.tokens):
            yield from wrap((_word(word, colour=colour) for word in line), width)
        if block.masked:
            yield ""
            rows = [[printable(cell) for cell in row] for row in table_rows(block, sources)]
            yield from format_table(HEADER, rows).splitlines()


def _word(word: list[ReplacedToken], *, colour: bool) -> Word:
    texts, columns = [], 0
    for token in word:
        # Masked, it is the tokens in its place that the discriminator sees.
        parts = (
            [("[", None), (token.text, None), ("](", None)]
            if token.replacements
            else [(token.text, token.doubt)]
        )
        for place, found in enumerate(token.replacements):
            parts += [("/", None)] if place else []
            parts.append((found.put.text, found.doubt))
        parts += [(")", None)] if token.replacements else []
        plain = [(printable(text), doubt) for text, doubt in parts]
        texts.append(
            "".join(
                on_background(text, relative_doubt(doubt)) if colour and doubt is not None else text
                for text, doubt in plain
            )
        )
        columns += sum(columns_of(text) for text, _ in plain)
    return Word(JOINT.join(texts), "", columns + len(word) - 1)
