"""An option of a fairseq dataclass, for the command line and for Hydra: its default and its help.

Types are spelt ``Optional[int]``, ``List[int]``: fairseq's option parser does not read ``int | None``.
"""

from dataclasses import field
from typing import Any

__all__ = ["option"]


def option(default: Any, help: str) -> Any:
    """Return a dataclass field; ``help`` is what ``--help`` prints."""
    return field(default=default, metadata={"help": help})
