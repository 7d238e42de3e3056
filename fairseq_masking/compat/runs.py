"""Where a run ends: a finished one stays as it is, and the next one of the process starts afresh.

fairseq keeps what a run knows in attributes of functions and in module dictionaries, which Hydra's multirun
hands to the next run, and reads batches ahead in a thread (``--data-buffer-size``) that outlives it.
"""

import atexit
import contextlib
import logging
import math
import os
import queue
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.data import iterators
from fairseq.logging import progress_bar
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fairseq_masking.compat.checkpoints import kept_of
from fairseq_masking.compat.patching import replaces
from fairseq_masking.errors import UserError

__all__ = [
    "give_jobs_folders_of_their_own", "reset_process_state", "say_warnings_again", "stop_reading_ahead",
    "stop_reading_ahead_at_exit", "warn_at_both_ends",
]  # fmt: skip

logger = logging.getLogger(__name__)

_TRAIN = "fairseq_cli.train"
_warnings: list[str] = []
_jobs: dict[str, int] = {}  # folder of a multirun's job -> its number
_readers: weakref.WeakSet[iterators.BackgroundConsumer] = weakref.WeakSet()


def give_jobs_folders_of_their_own(cfg: DictConfig) -> None:
    """Moves a job of Hydra's multirun out of the folder of an earlier job, whose checkpoint it would resume."""
    if not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN):
        return
    shared, number = cfg.checkpoint.save_dir, HydraConfig.get().job.num
    if _jobs.setdefault(os.path.abspath(shared), number) == number:
        return
    own = os.path.join(shared, f"job{number}")
    logger.warning("%s has the checkpoints of another job of this multirun: this one's are in %s", shared, own)
    cfg.checkpoint.save_dir = own
    for name in ("tensorboard_logdir", "log_file"):
        if (path := cfg.common[name]) and path.startswith(shared):
            cfg.common[name] = own + path.removeprefix(shared)


def reset_process_state() -> None:
    """Forgets the best score, the patience, the TensorBoard writers and the unread batches of the run before.

    Left alone, the second job of a multirun would compare itself with the first one's best score, log into its folder
    and share the machine with its data worker. A resumed run gets its best score back from the checkpoint, later.
    """
    stop_reading_ahead()
    _warnings.clear()
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    for name in ("best", "num_runs") if _TRAIN in sys.modules else ():
        vars(sys.modules[_TRAIN].should_stop_early).pop(name, None)
    writers = getattr(progress_bar, "_tensorboard_writers", None) or {}
    for writer in writers.values():
        writer.close()
    writers.clear()


def warn_at_both_ends(message: str) -> None:
    """Warns now and when the run has ended, hours of other lines later; on the first rank only."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        logger.warning(message)
        _warnings.append(message)


def say_warnings_again() -> None:
    """Repeats what ``warn_at_both_ends`` has said in this run."""
    for message in _warnings:
        logger.warning("as was said at the start: %s", message)
    _warnings.clear()


def stop_reading_ahead_at_exit() -> None:
    """Keeps a run that leaves batches unread (--max-update) from ending with SIGABRT, status 134.

    fairseq's reader is a daemon thread: where it is inside of a tensor operation when the interpreter is
    finalized, Python ends it with ``pthread_exit``, which C++ answers with ``std::terminate``. Only batches
    collated by the thread itself (--num-workers 0) meet it often.
    """
    atexit.unregister(stop_reading_ahead)
    atexit.register(stop_reading_ahead)


def stop_reading_ahead(timeout: float = 10.0) -> None:
    """Ends every reader after the batch that it is at; leaves them alone after ``timeout`` seconds in all."""
    end = time.monotonic() + timeout
    for reader in list(_readers):
        reader._max_len = 0
        while reader.is_alive() and time.monotonic() < end:
            with contextlib.suppress(queue.Empty):  # it may be full, with the reader waiting for a place
                while True:
                    reader._queue.get_nowait()
            reader.join(0.01)
        _readers.discard(reader)


@replaces(_TRAIN, "validate_and_save")
def _save_and_name_an_unknown_metric(
    original: Callable[..., Any], cfg: DictConfig, trainer: Any, task: Any, epoch_itr: Any, *rest: Any
) -> Any:
    try:
        return original(cfg, trainer, task, epoch_itr, *rest)
    except KeyError as error:
        metric = cfg.checkpoint.best_checkpoint_metric
        if error.args != (metric,):
            raise
        checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)
        raise UserError(
            f"--best-checkpoint-metric {metric}: validation has no such number, see its line in the log (loss, ...);"
            f" {kept_of(cfg.checkpoint, trainer.get_num_updates(), 'the same command with another one goes on')}"
        ) from None


@replaces(_TRAIN, "train")
def _train_unless_finished(
    original: Callable[..., Any], cfg: DictConfig, trainer: Any, *rest: Any
) -> tuple[list[float | None], bool]:
    """fairseq looks at --max-update after an update only: a finished run would go one beyond it at each command."""
    max_update = cfg.optimization.max_update or math.inf
    if trainer.get_num_updates() >= max_update:
        logger.info("nothing to do: the run has reached --max-update %s", cfg.optimization.max_update)
        return [None], True
    return original(cfg, trainer, *rest)


@replaces(iterators.BackgroundConsumer, "start")
def _start(original: Callable[..., Any], self: iterators.BackgroundConsumer) -> None:
    _readers.add(self)
    original(self)
