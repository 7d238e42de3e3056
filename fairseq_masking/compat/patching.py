"""The one way in which this package replaces a function of fairseq."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["replace"]

_MARK = "__fairseq_masking__"


def replace(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Sets ``owner.name`` to ``make(original)``, once: a second call finds the mark and does nothing.

    Args:
        owner: Module or class that holds the function.
        name: Its name there. A class's static method stays static, any other becomes a method.
        make: Takes the original, gives the replacement, which ends up with the original in ``__wrapped__``.
    """
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        return
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, _MARK, True)
    static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    setattr(owner, name, staticmethod(replacement) if static else replacement)
