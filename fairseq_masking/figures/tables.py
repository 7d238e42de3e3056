"""Plain-text tables that read well in a terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["format_rows", "format_table"]


def format_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return a table of rows of named values; columns: heading -> template, such as ``{loss:.3f}``."""
    return format_table(list(columns), [[cell.format(**row) for cell in columns.values()] for row in rows])


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with padded columns: the first one left-aligned, the others right-aligned."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(header, widths), _line(rule, widths), *(_line(row, widths) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    others = zip(cells[1:], widths[1:], strict=True)
    padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in others)]
    return f"| {' | '.join(padded)} |"
