"""The one way in which this package replaces a function of fairseq."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["loaded_program", "replace"]

_MARK = "__fairseq_masking__"


def replace(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Has ``owner.name(...)`` call ``replacement(original, ...)``, once: the same again changes nothing.

    Args:
        owner: Module or class that holds the function.
        name: Its name there. A class's static method stays static, any other becomes a method.
        replacement: Takes the original before its arguments.
    """
    original = getattr(owner, name)
    present = getattr(original, _MARK, ())
    if replacement in present:
        return

    @functools.wraps(original)
    def replaced(*args: Any, **options: Any) -> Any:
        return replacement(original, *args, **options)

    setattr(replaced, _MARK, (*present, replacement))
    static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    setattr(owner, name, staticmethod(replaced) if static else replaced)


def loaded_program(name: str) -> Any:
    """Returns the module of a program of fairseq, ``__main__`` where it runs as that; None if not loaded."""
    main = sys.modules.get("__main__")
    is_main = getattr(getattr(main, "__spec__", None), "name", None) == name
    return main if is_main else sys.modules.get(name)
