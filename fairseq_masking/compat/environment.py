"""Installed packages that are not what their importers expect: NumPy 2, ``apex``, ``torchaudio``."""

import ctypes
import importlib.util
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

__all__ = ["hide_broken_torchaudio", "restore_numpy_compat", "warn_about_wrong_apex"]

logger = logging.getLogger(__name__)


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


def _folders_of(package: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
