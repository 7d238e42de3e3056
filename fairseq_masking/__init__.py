"""A fairseq plugin that pre-trains text encoders better and cheaper than plain masked language modelling.

Importing it registers its tasks, models, criterions and optimizers with fairseq. In the command
``fairseq-masking`` a verb does so where it needs them: fairseq takes seconds to import, ``--help`` none.
"""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["register"]
__version__ = "0.1.0"


# What other people's code may import by a name of before -> where it is now.
_MOVED = {
    "fairseq_masking.export": "fairseq_masking.checkpoints",
    "fairseq_masking.export.sources": "fairseq_masking.checkpoints.sources",
    "fairseq_masking.preparation": "fairseq_masking.corpus",
    "fairseq_masking.preparation.tokenizers": "fairseq_masking.corpus.manifest",
    "fairseq_masking.preparation.normalization": "fairseq_masking.corpus.manifest",
}


class _Moved(MetaPathFinder, Loader):
    """Imports a module of ``_MOVED`` as the one that it is now, with a DeprecationWarning."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=name.count(".") == 1) if name in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        now = _MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is {now} now: import that", DeprecationWarning, stacklevel=2)
        module.__getattr__ = lambda name: getattr(importlib.import_module(now), name)  # type: ignore[method-assign]


def register() -> None:
    """Mend fairseq and register with it all that this package has. Idempotent."""
    from fairseq_masking import registration  # noqa: F401 - late: it imports torch and fairseq


def _is_the_command() -> bool:
    """Whether this process is ``fairseq-masking``, or ``python -m fairseq_masking``, then still called -m."""
    return Path(sys.argv[0]).name == "fairseq-masking" or (sys.argv[0] == "-m" and "fairseq_masking" in sys.orig_argv)


def _stand_in(name: str = "fairseq_masking") -> None:
    """Be the package where ``--user-dir`` names a link to it that is called otherwise.

    Its modules import each other by its own name: imported under two, each would register twice.
    """
    folder = Path(__file__).resolve().parent
    error = f"{name}: error: --user-dir {Path(__file__).parent}"
    if folder.name != name:
        raise SystemExit(f"{error}: the folder has to be called {name}: rename it")
    sys.path.insert(0, str(folder.parent))  # started ranks look there, too
    package = importlib.import_module(name)
    if Path(package.__path__[0]).resolve() != folder:
        raise SystemExit(f"{error} is another copy than {package.__path__[0]}, which is imported: give that one")
    package.register()
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        sys.modules[__name__ + module.removeprefix(name)] = sys.modules[module]


if __name__ != "fairseq_masking":
    _stand_in()
else:
    sys.meta_path.append(_Moved())
    if not _is_the_command():
        register()
