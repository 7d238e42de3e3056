"""The one way in which this package replaces a function of fairseq."""

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["replace"]

_MARK = "__fairseq_masking__"


def replace(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Sets ``owner.name`` to ``make(original)``, once: a second call finds the mark and does nothing.

    Args:
        owner: Module or class that holds the function.
        name: Its name there. A static method of a class stays a static method.
        make: Takes the original, gives the replacement, which ends up with the original in ``__wrapped__``.
    """
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        return
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, _MARK, True)
    setattr(owner, name, staticmethod(replacement) if isinstance(owner, type) else replacement)
