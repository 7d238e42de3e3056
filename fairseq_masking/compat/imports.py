"""What a process imports and never uses: seconds of every command's start.

Of 10 s of CPU up to the first update, 1.5 were sklearn and SciPy, of which fairseq's stock tasks take five
functions, and 3 were ``torch._dynamo``, which every optimizer imports in order to tell it to stay away.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch.optim import Optimizer

__all__ = ["import_fairseq", "leave_dynamo_unimported"]

_SCORES = ("sklearn", "sklearn.metrics", "scipy", "scipy.stats")


def import_fairseq() -> None:
    """Imports fairseq, whose functions of sklearn and SciPy import those when they are called.

    Changes nothing where fairseq has been imported already, as in its own commands.
    """
    absent = {name: _Later(name) for name in _SCORES if name not in sys.modules}
    for name, module in absent.items():
        package, _, child = name.rpartition(".")
        if package in absent:
            setattr(absent[package], child, module)
    sys.modules.update(absent)
    try:
        import fairseq  # noqa: F401
    finally:
        for name in absent:
            del sys.modules[name]


def leave_dynamo_unimported() -> None:
    """Lets an optimizer's methods run as they are where nothing is compiled.

    They import ``torch._dynamo`` at their first call to exclude themselves from compilation, which matters
    to who compiles an optimizer: no one here does, ``--compile`` is about models.
    """
    for method in vars(Optimizer).values():
        original = getattr(method, "__wrapped__", None)
        if original is not None:
            original.__dict__.setdefault("__dynamo_disable", original)  # where the imported one would be kept


class _Later(ModuleType):
    """Stands for a module while another one takes functions from it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # for who asks whether it is installed

    def __getattr__(self, function: str) -> Callable[..., Any]:
        if function.startswith("__"):
            raise AttributeError(function)
        return lambda *args, **options: getattr(importlib.import_module(self.__name__), function)(*args, **options)
