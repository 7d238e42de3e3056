"""Rows that cannot be used: why, how many, and which."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fairseq_masking.errors import UserError

__all__ = ["FaultLog", "FaultyRow"]

_SHOWN = 80


class FaultyRow(Exception):
    """Why a row cannot be used, in a few words."""


@dataclass
class FaultLog:
    """What was wrong with the rows of a file.

    Attributes:
        path: of the file.
        kinds: what was wrong -> with how many rows.
        lines: one for each of those rows.
    """

    path: Path
    kinds: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, place: str | int, fault: FaultyRow, content: str) -> None:
        """Counts a row.

        Args:
            place: where it stands in the file.
            content: of the row; its beginning is shown.
        """
        self.kinds[str(fault)] += 1
        self.lines.append(f"{self.path.name}:{place}: {fault}: {content[:_SHOWN]!r}")

    def check_left(self, left: object, what: str) -> None:
        """Makes sure that something is left.

        Args:
            left: the rows that can be used.
            what: a row's name.

        Raises:
            UserError: there are none.
        """
        if not left:
            faults = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
            raise UserError(f"{self.path} has no {what} that can be used ({faults or 'it is empty'})")

    def counts(self) -> dict[str, int]:
        """Returns the numbers for a manifest."""
        kinds = {f"faulty: {kind}": count for kind, count in self.kinds.most_common()}
        return {"faulty": self.kinds.total(), **kinds}
