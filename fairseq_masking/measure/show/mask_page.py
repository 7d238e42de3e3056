"""Shown masks as one self-contained HTML page."""

import math
from collections.abc import Iterable, Mapping
from html import escape

from fairseq_masking.measure.show.mask_colours import LEGEND, hex_colour
from fairseq_masking.measure.show.page import document, legend, paragraphs, swatches
from fairseq_masking.measure.show.shown_masks import ShownBlock, ShownToken

__all__ = ["render_page"]

_STYLE = """
.n { font-size: .68rem; line-height: 1.1; font-weight: 400; color: #333; }
#numbers:not(:checked) ~ main .n { display: none; }
#numbers { margin: 0 .4rem 0 0; }
.toggle { font-size: .875rem; }
#numbers:focus-visible + label { outline: 2px solid #1d4ed8; outline-offset: 2px; }
"""
_CONTROLS = """<input type="checkbox" id="numbers">
<label for="numbers" class="toggle">show the numbers: % of the uniform probability</label>"""


def render_page(
    blocks: Iterable[ShownBlock], *, title: str, facts: Mapping[str, str], notice: str | None = None
) -> str:
    """Return the page.

    Args:
        title: heading.
        facts: what the masks are of, shown above them.
        notice: a line that has to be seen.
    """
    return document(
        "".join(_section(number, block) for number, block in enumerate(blocks, 1)),
        title=title,
        facts=facts,
        notice=notice,
        legend=legend(
            f"times as likely as under uniform masks {swatches((hex_colour(v), text) for v, text in LEGEND)}",
            f'<mark class="t d" style="background:{hex_colour(1.0)}">drawn</mark> in the mask',
            '<span class="t">one</span><span class="t">word</span> of several tokens',
            '<span class="x">&lt;unk&gt;</span> never masked',
            "rest the pointer on a token for its numbers",
        ),
        style=_STYLE,
        controls=_CONTROLS,
    )


def _section(number: int, block: ShownBlock) -> str:
    entropy = "" if math.isnan(block.entropy) else f", entropy {block.entropy:.1%} of the uniform law’s"
    size = sum(token.relative is not None for token in block.tokens)
    heading = f"Block {number}: {block.num_masked} of {size} maskable tokens drawn{entropy}"
    return f"<section><h2>{heading}</h2>{paragraphs(block.tokens, _token)}</section>\n"


def _token(token: ShownToken) -> str:
    text = escape(token.text)
    if token.relative is None or token.probability is None:
        return f'<span class="t x" title="never masked">{text}</span>'
    percent = f"{100 * token.relative:.0f}"
    said = [f"p = {token.probability:.3%}", f"{percent}% of uniform"]
    if token.loss is not None:
        said.append(f"encoder’s loss {token.loss:.2f} nats")
    if token.draw is not None:
        said.append(f"drawn as number {token.draw}")
    tag = "mark" if token.draw is not None else "span"
    style = "t d" if token.draw is not None else "t"
    return (
        f'<{tag} class="{style}" style="background:{hex_colour(token.relative)}" title="{", ".join(said)}">'
        f'{text}<span class="n">{percent}</span></{tag}>'
    )
