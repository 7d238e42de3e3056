"""Shown masks as one self-contained HTML page: no scripts, no files beside it."""

import math
from collections.abc import Iterable, Mapping
from html import escape

from fairseq_masking.evaluation.mask_colours import LEGEND, hex_colour
from fairseq_masking.evaluation.shown_masks import ShownBlock, ShownToken

__all__ = ["render_page"]

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 62rem; background: #fff; color: #111;
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .9rem; margin: 0 0 .75rem;
  font-size: .875rem; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
.notice { border-left: 4px solid #b45309; padding: .3rem .7rem; background: #fff7ed; margin: 0 0 .75rem; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 1.25rem; font-size: .875rem;
  border: 1px solid #ccc; border-radius: 6px; padding: .5rem .75rem; margin: 0 0 1.25rem; }
.scale { display: inline-flex; border: 1px solid #999; border-radius: 3px; overflow: hidden; }
.scale span { padding: 0 .5rem; }
label { cursor: pointer; }
section { margin: 0 0 1.25rem; padding: .75rem .9rem; border: 1px solid #ddd; border-radius: 6px; }
h2 { font-size: .8rem; font-weight: normal; color: #555; margin: 0 0 .4rem; }
p { margin: 0 0 .45rem; overflow-wrap: anywhere; }
.w { display: inline-flex; flex-wrap: wrap; vertical-align: top; margin: 0 .28em .3em 0; max-width: 100%; }
.t { display: inline-flex; flex-direction: column; align-items: center; max-width: 100%; padding: 0 .18em;
  border: 2px solid transparent; border-radius: 3px; line-height: 1.35; }
.t + .t { border-left: 1px dashed #555; border-top-left-radius: 0; border-bottom-left-radius: 0; }
.t:has(+ .t) { border-top-right-radius: 0; border-bottom-right-radius: 0; }
mark { color: inherit; }
.d, .t + .d { border: 2px solid #111; font-weight: 700; }
.x { color: #555; font-style: italic; }
.n { font-size: .68rem; line-height: 1.1; font-weight: 400; color: #333; }
#numbers:not(:checked) ~ main .n { display: none; }
#numbers { margin: 0 .4rem 0 0; }
.toggle { font-size: .875rem; }
#numbers:focus-visible + label { outline: 2px solid #1d4ed8; outline-offset: 2px; }
main { margin-top: .75rem; }
@media (max-width: 30rem) { body { padding: .8rem .6rem 2rem; } dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .3rem; } section { padding: .5rem .6rem; } }
@media print { section { break-inside: avoid-page; border: 0; padding: 0; }
  .t, .scale span { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def render_page(
    blocks: Iterable[ShownBlock], *, title: str, facts: Mapping[str, str], notice: str | None = None
) -> str:
    """Return the page.

    Args:
        title: heading.
        facts: what the masks are of, shown above them.
        notice: a line that has to be seen.
    """
    sections = [_section(number, block) for number, block in enumerate(blocks, 1)]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    warning = f'<p class="notice" role="note">{escape(notice)}</p>' if notice else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<dl>{listed}</dl>
{warning}
{_legend()}
<input type="checkbox" id="numbers">
<label for="numbers" class="toggle">show the numbers: % of the uniform probability</label>
<main>
{"".join(sections)}</main>
</body>
</html>
"""


def _legend() -> str:
    swatches = "".join(
        f'<span style="background:{hex_colour(value)}">{text}</span>' for value, text in LEGEND
    )
    return (
        '<div class="legend" role="note" aria-label="Legend">'
        f'<span>times as likely as under uniform masks <span class="scale">{swatches}</span></span>'
        f'<span><mark class="t d" style="background:{hex_colour(1.0)}">drawn</mark> in the mask</span>'
        '<span><span class="t">one</span><span class="t">word</span> of several tokens</span>'
        '<span><span class="x">&lt;unk&gt;</span> never masked</span>'
        "<span>rest the pointer on a token for its numbers</span></div>"
    )


def _section(number: int, block: ShownBlock) -> str:
    entropy = "" if math.isnan(block.entropy) else f", entropy {block.entropy:.1%} of the uniform law’s"
    size = sum(token.relative is not None for token in block.tokens)
    heading = f"Block {number}: {block.num_masked} of {size} maskable tokens drawn{entropy}"
    return f"<section><h2>{heading}</h2>{_paragraphs(block.tokens)}</section>\n"


def _paragraphs(tokens: Iterable[ShownToken]) -> str:
    paragraphs: list[list[list[str]]] = [[]]
    for token in tokens:
        if token.ends_line:
            paragraphs.append([])
        elif token.begins_word or not paragraphs[-1]:
            paragraphs[-1].append([_token(token)])
        else:
            paragraphs[-1][-1].append(_token(token))
    # A space between the words: so that the text can be copied, and read aloud.
    return "".join(f"<p>{' '.join(_word(word) for word in words)}</p>" for words in paragraphs if words)


def _word(tokens: list[str]) -> str:
    return f'<span class="w">{"".join(tokens)}</span>'


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
