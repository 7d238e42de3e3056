"""The one way in which this package replaces a function of fairseq."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["loaded_program", "replace", "replace_at_start", "replaces"]

_MARK = "__fairseq_masking__"
_at_start: list[tuple[str, str, Callable[..., Any]]] = []
_Function = TypeVar("_Function", bound=Callable[..., Any])


def replaces(owner: Any, name: str) -> Callable[[_Function], _Function]:
    """Have the decorated function called in place of ``owner.name``, with the original before its arguments.

    Args:
        owner: module or class that holds the function. As text, "fairseq.trainer:Trainer" or "fairseq_cli.train", it
            is found when a command starts: what takes a while to import, and the program that runs, if it does.
        name: its name there.
    """

    def decorated(replacement: _Function) -> _Function:
        if isinstance(owner, str):
            _at_start.append((owner, name, replacement))
        else:
            replace(owner, name, replacement)
        return replacement

    return decorated


def replace_at_start() -> None:
    """Replace what could not be when it was imported. Called when a command starts."""
    for owner, name, replacement in _at_start:
        module, _, kind = owner.partition(":")
        found = loaded_program(module) if module.startswith("fairseq_cli.") else importlib.import_module(module)
        if found is not None:
            replace(getattr(found, kind) if kind else found, name, replacement)


def replace(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Do what ``replaces`` says, once: the same again changes nothing. A class's static method stays static."""
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
    """Return the module of a program of fairseq, ``__main__`` where it runs as that; None if not loaded."""
    main = sys.modules.get("__main__")
    is_main = getattr(getattr(main, "__spec__", None), "name", None) == name
    return main if is_main else sys.modules.get(name)
