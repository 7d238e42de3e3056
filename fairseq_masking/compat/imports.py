"""What fairseq and torch import at every start and nothing here uses: 4 of the 10 s of CPU up to the first update."""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch.optim import Optimizer

__all__ = ["import_fairseq", "leave_dynamo_unimported"]


def import_fairseq() -> None:
    """Imports fairseq, whose functions of sklearn and SciPy import those when they are called.

    Changes nothing where fairseq has been imported already, as in its own commands.
    """
    names = ("sklearn", "sklearn.metrics", "scipy", "scipy.stats")
    absent = {name: _Later(name) for name in names if name not in sys.modules}
    if {"sklearn", "sklearn.metrics"} <= absent.keys():
        absent["sklearn"].metrics = absent["sklearn.metrics"]
    sys.modules.update(absent)
    try:
        import fairseq  # noqa: F401
    finally:
        for name in absent:
            del sys.modules[name]


def leave_dynamo_unimported() -> None:
    """Lets an optimizer's methods run as they are where nothing is compiled.

    They import ``torch._dynamo`` at their first call, to exclude themselves from compilation; ``--compile`` is
    about models.
    """
    for method in vars(Optimizer).values():
        if original := getattr(method, "__wrapped__", None):
            original.__dict__.setdefault("__dynamo_disable", original)  # where torch keeps what it made


class _Later(ModuleType):
    """A module's functions, which import it when they are called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # for who asks whether it is installed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **options: getattr(importlib.import_module(self.__name__), name)(*args, **options)
