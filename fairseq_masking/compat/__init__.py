"""What stock fairseq lacks on today's Python and PyTorch, mended from the outside.

fairseq is never edited. Each fix is one small documented function of this package; it wraps one function or
class of fairseq, leaves everything alone that already works, and may be called any number of times.

| file | what it mends |
|---|---|
| this one | NumPy names that are gone, PyPI's unrelated ``apex``, a torchaudio that does not load |
| checkpoints.py | loading under weights_only, refusing checkpoints that run code, atomic copies |
| distributed.py | several processes on CPU, torchrun, DDP without a GPU |
| epochs.py | the place in an epoch, in rows: a run resumes with other batches, row lengths or ranks |
| errors.py | a ``UserError`` ends the program with one line instead of a traceback, on every rank |
| imports.py | sklearn, SciPy and torch._dynamo, which are imported at every start and not used |
| launch.py | the one wrapper around ``call_main`` through which every fairseq command starts its work |
| numbers.py | gradients that are not finite, losses that have diverged: one line, and good checkpoints stay |
| options.py | ``--bf16`` on machines that are no TPU; which options were typed; how ours are declared |
| progress.py | a training says first what it is, then how far it is; its start is not a screen of settings |
| recipes.py | a recipe that builds on another keeps its values; what one leaves open must be given |
| ranges.py | the numbers that options may be, fairseq's and ours, in one table |
| runs.py | what one run leaves to the next: its best score, its reading thread; a finished run stays so |
| seals.py | the SHA-256 that a checkpoint carries in itself |
| signals.py | a signal ends a training after the update that it is at, with a checkpoint |
"""

import ctypes
import importlib.util
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from fairseq_masking.compat.imports import import_fairseq, leave_dynamo_unimported

import_fairseq()

from fairseq_masking.compat import checkpoints, distributed, epochs, errors, launch, options, progress, recipes, runs  # noqa: E402
from fairseq_masking.compat.runs import reset_process_state  # noqa: E402

__all__ = [
    "apply",
    "hide_broken_torchaudio",
    "hides_torchaudio",
    "reset_process_state",
    "restore_numpy_compat",
    "warn_about_wrong_apex",
]

logger = logging.getLogger(__name__)


def apply() -> None:
    """Applies every fix. Idempotent; ``registration`` calls it before it registers anything."""
    restore_numpy_compat()
    warn_about_wrong_apex()
    progress.quieten_what_no_user_asked_for()
    hide_broken_torchaudio()
    checkpoints.allow_safe_globals()
    checkpoints.guard_checkpoint_loading()
    checkpoints.allow_broadcast_of_checkpoints()
    checkpoints.copy_checkpoints_atomically()
    checkpoints.save_whole_or_say_why()
    checkpoints.remove_leftover_temporaries()
    options.keep_bf16_off_the_tpu()
    options.read_whole_numbers()
    distributed.wrap_cpu_models_without_device_ids()
    distributed.gather_lists_without_cuda()
    leave_dynamo_unimported()
    epochs.keep_rows_read()
    runs.stop_reading_ahead_at_exit()
    launch.wrap_call_main()
    recipes.compose_schema_first()
    errors.show_user_errors_outside_of_call_main()
    errors.show_user_errors_of_hydra_programs()


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
