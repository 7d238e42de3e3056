"""What stock fairseq lacks on today's Python and PyTorch, mended from the outside.

fairseq is never edited. Each fix is one small documented function of this package; it wraps one function or
class of fairseq, leaves everything alone that already works, and may be called any number of times.

README.md says which file mends what; this one NumPy names that are gone, PyPI's unrelated ``apex``, a torchaudio
that does not load, and imports at every start of what nothing here uses: 4 of the 10 s of CPU to the first update.
"""

import ctypes
import importlib.util
import logging
import multiprocessing
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch.optim import Optimizer


class _Later(ModuleType):
    """A module's functions, which import it when they are called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # for who asks whether it is installed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **options: getattr(importlib.import_module(self.__name__), name)(*args, **options)


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


import_fairseq()

from fairseq_masking.compat import (  # noqa: E402 - what they mend is done when they are imported
    checkpoints,
    distributed,
    epochs,  # noqa: F401
    errors,
    launch,  # noqa: F401
    numbers,  # noqa: F401
    progress,
    recipes,  # noqa: F401
    runs,
)
from fairseq_masking.compat.runs import reset_process_state  # noqa: E402

__all__ = [
    "apply", "hide_broken_torchaudio", "hides_torchaudio", "reset_process_state", "restore_numpy_compat",
    "warn_about_wrong_apex",
]  # fmt: skip

logger = logging.getLogger(__name__)


def apply() -> None:
    """Applies every fix that is no function in place of another. Idempotent; ``registration`` calls it first."""
    restore_numpy_compat()
    warn_about_wrong_apex()
    progress.quieten_what_no_user_asked_for()
    hide_broken_torchaudio()
    checkpoints.allow_safe_globals()
    distributed.wrap_cpu_models_without_device_ids()
    leave_dynamo_unimported()
    runs.stop_reading_ahead_at_exit()
    errors.show_user_errors_outside_of_call_main()
    errors.show_user_errors_of_hydra_programs()


def leave_dynamo_unimported() -> None:
    """Lets an optimizer's methods run as they are where nothing is compiled.

    They import ``torch._dynamo`` at their first call, to exclude themselves from compilation; ``--compile`` is
    about models.
    """
    for method in vars(Optimizer).values():
        if original := getattr(method, "__wrapped__", None):
            original.__dict__.setdefault("__dynamo_disable", original)  # where torch keeps what it made


def restore_numpy_compat() -> None:
    """Gives back ``np.compat.long``, which NumPy 2 removed and ``--sample-break-mode eos`` still reads."""
    if not hasattr(np, "compat"):
        np.compat = SimpleNamespace(long=int)


def warn_about_wrong_apex() -> None:
    """Says in one line if the installed ``apex`` is PyPI's web toolkit and not NVIDIA's kernels.

    fairseq's own imports of it survive (they catch ImportError); it is slower than its user thinks, no more.
    Only looks at the files: importing the toolkit fails or runs foreign code. One rank speaks for all.
    """
    if multiprocessing.parent_process() is not None or os.environ.get("RANK", "0") != "0":
        return
    folders = _folders_of("apex")
    if folders and not any((folder / "normalization").exists() for folder in folders):
        logger.warning(
            f"the package apex in {folders[0]} is not NVIDIA's (PyPI's apex is an unrelated web toolkit), so "
            "no fused kernels are used: pip uninstall apex, then build github.com/NVIDIA/apex or go without"
        )


def hide_broken_torchaudio() -> None:
    """Makes ``import torchaudio`` an ImportError, which importers catch, where its library does not load.

    ve-fairseq brings the newest torchaudio, which may be built for CUDA beside a PyTorch without it. It then
    raises OSError on import, and every model of transformers with it.
    """
    libraries = [path for folder in _folders_of("torchaudio") for path in folder.glob("lib/_torchaudio*.so")]
    try:
        for library in libraries:
            ctypes.CDLL(str(library))
    except OSError:
        sys.modules["torchaudio"] = None  # type: ignore[assignment]


def hides_torchaudio() -> bool:
    """Whether this environment has a torchaudio that does not load, which is hidden in this process alone."""
    return sys.modules.get("torchaudio", sys) is None


def _folders_of(package: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
