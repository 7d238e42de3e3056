"""What both renderings of replacements say: the numbers of each masked token, and a summary in a line.

The scale of colours is ``mask_colours``': white where the discriminator takes a token for the original (2%
and less for replaced), the darkest where it is sure that it is replaced.
"""

from collections.abc import Sequence

from fairseq_masking.measure.show.shown_replacements import Choice, ReplacedBlock

__all__ = ["HEADER", "LEGEND", "relative_doubt", "summary_line", "table_rows"]

HEADER = ("masked", "by", "weight", "likeliest", "put in place", "taken for replaced")
LEGEND = ((1 / 64, "2%"), (1 / 16, "6%"), (1 / 4, "25%"), (1.0, "100%"))


def relative_doubt(doubt: float) -> float:
    """The probability of "replaced" on a scale that ends at 1/8 and 8."""
    return 8.0 * doubt


def table_rows(block: ReplacedBlock, sources: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a row of ``HEADER`` for each source of each masked token, which stands in the first of them."""
    rows = []
    for number, token in enumerate(block.masked, 1):
        for source, found in zip(sources, token.replacements, strict=True):
            put = _said(found.put)
            rows.append(
                (
                    f"{number} {token.text}" if source == sources[0] else "",
                    source,
                    "" if found.weight is None else f"{found.weight:.2f}",
                    ", ".join(map(_said, found.likeliest)),
                    f"{put} = original" if found.is_original else put,
                    f"{found.doubt:.0%}",
                )
            )
    return rows


def summary_line(blocks: Sequence[ReplacedBlock], sources: Sequence[str]) -> str:
    """Say in a line how many tokens are masked, and how many each source replaced and were detected."""
    masked = [token for block in blocks for token in block.masked]
    parts = [f"{len(masked)} tokens masked in {len(blocks)} block{'s' * (len(blocks) > 1)}"]
    for number, source in enumerate(sources):
        found = [token.replacements[number] for token in masked]
        replaced = [one for one in found if one.is_original is False]
        if not replaced:
            continue
        caught = sum(one.doubt > 0.5 for one in replaced)
        parts.append(f"{source}: {len(replaced)} replaced, {caught} of them detected")
    return "; ".join(parts)


def _said(choice: Choice) -> str:
    return f"{choice.text} {choice.probability:.1%}"
