"""One self-contained HTML page about text: no scripts, no files beside it."""

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import TypeVar

from fairseq_masking.measure.show.text_blocks import Placed, lines_of_words

__all__ = ["document", "legend", "paragraphs", "swatches"]

Token = TypeVar("Token", bound=Placed)

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
main { margin-top: .75rem; }
@media (max-width: 30rem) { body { padding: .8rem .6rem 2rem; } dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .3rem; } section { padding: .5rem .6rem; } }
@media print { section { break-inside: avoid-page; border: 0; padding: 0; }
  .t, .scale span { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def document(
    body: str,
    *,
    title: str,
    facts: Mapping[str, str],
    legend: str,
    notice: str | None = None,
    style: str = "",
    controls: str = "",
) -> str:
    """Return the page.

    Args:
        body: sections, as HTML.
        title: heading.
        facts: what it is about, shown above.
        legend: as ``legend`` makes it.
        notice: a line that has to be seen.
        style: CSS behind the common one.
        controls: HTML in front of the sections.
    """
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    warning = f'<p class="notice" role="note">{escape(notice)}</p>' if notice else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<dl>{listed}</dl>
{warning}
{legend}
{controls}
<main>
{body}</main>
</body>
</html>
"""


def legend(*meanings: str) -> str:
    """Return what the signs mean; each of ``meanings`` is HTML."""
    listed = "".join(f"<span>{meaning}</span>" for meaning in meanings)
    return f'<div class="legend" role="note" aria-label="Legend">{listed}</div>'


def swatches(colours: Iterable[tuple[str, str]]) -> str:
    """Return a scale of backgrounds (#rrggbb) with their texts."""
    boxes = "".join(f'<span style="background:{colour}">{text}</span>' for colour, text in colours)
    return f'<span class="scale">{boxes}</span>'


def paragraphs(tokens: Iterable[Token], show: Callable[[Token], str]) -> str:
    """Return a paragraph for each line; ``show`` gives a token's HTML."""
    # A space between the words: so that the text can be copied, and read aloud.
    return "".join(
        f"<p>{' '.join(_word(map(show, word)) for word in line)}</p>"
        for line in lines_of_words(tokens)
        if line
    )


def _word(tokens: Iterable[str]) -> str:
    return f'<span class="w">{"".join(tokens)}</span>'
