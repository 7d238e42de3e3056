"""Shown replacements as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from html import escape

from fairseq_masking.measure.show.mask_colours import hex_colour
from fairseq_masking.measure.show.page import document, legend, paragraphs, swatches
from fairseq_masking.measure.show.replacement_table import HEADER, LEGEND, relative_doubt, table_rows
from fairseq_masking.measure.show.shown_replacements import ReplacedBlock, ReplacedToken

__all__ = ["render_page"]

_STYLE = """
.o { text-decoration: underline; }
.r { font-size: .8rem; font-weight: 400; }
.r span { padding: 0 .15em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; margin: .4rem 0 0; }
th, td { text-align: left; padding: .1rem .6rem .1rem 0; vertical-align: top; }
th { font-weight: 600; color: #555; }
tr.first td { border-top: 1px solid #ddd; }
summary { font-size: .8rem; cursor: pointer; }
"""


def render_page(
    blocks: Sequence[ReplacedBlock], sources: Sequence[str], *, title: str, facts: Mapping[str, str]
) -> str:
    """Return the page.

    Args:
        sources: their names, in the order of each token's ``replacements``.
        title: heading.
        facts: what the replacements are of, shown above them.
    """
    return document(
        "".join(_section(number, block, sources) for number, block in enumerate(blocks, 1)),
        title=title,
        facts=facts,
        legend=legend(
            f'<span class="t d"><span class="o">masked</span><span class="r">{escape(" / ".join(sources))}'
            "</span></span> the token that each puts in place",
            f"taken for replaced {swatches((hex_colour(relative_doubt(v)), text) for v, text in LEGEND)}",
            '<span class="t">one</span><span class="t">word</span> of several tokens',
            "rest the pointer on a token for its numbers",
        ),
        style=_STYLE,
    )


def _section(number: int, block: ReplacedBlock, sources: Sequence[str]) -> str:
    heading = f"<h2>Block {number}: {len(block.masked)} tokens masked</h2>"
    text = paragraphs(block.tokens, lambda token: _token(token, sources))
    return f"<section>{heading}{text}{_table(block, sources)}</section>\n"


def _token(token: ReplacedToken, sources: Sequence[str]) -> str:
    text = escape(token.text)
    if not token.replacements:
        return f'<span class="t" {_doubted(token.doubt)}>{text}</span>'
    put = "/".join(
        f"<span {_doubted(found.doubt, f'{source}, p = {found.put.probability:.1%}: ')}>"
        f"{escape(found.put.text)}</span>"
        for source, found in zip(sources, token.replacements, strict=True)
    )
    return f'<span class="t d"><span class="o">{text}</span><span class="r">{put}</span></span>'


def _doubted(doubt: float, said: str = "") -> str:
    title = escape(f"{said}taken for replaced: {doubt:.1%}")
    return f'style="background:{hex_colour(relative_doubt(doubt))}" title="{title}"'


def _table(block: ReplacedBlock, sources: Sequence[str]) -> str:
    if not block.masked:
        return ""
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    rows = "".join(
        f"<tr{' class=first' if row[0] else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row in table_rows(block, sources)
    )
    table = f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    return f"<details><summary>numbers</summary>{table}</details>"
