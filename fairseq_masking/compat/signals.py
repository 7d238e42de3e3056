"""A signal ends a training after the update that it is at, with a checkpoint: Slurm's and torchrun's way.

SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (Slurm's before the time is up) end with the status 128 + their number, on all
ranks after the same update: what arrived on any of them travels with the sums that each update makes anyway. Before
the first update there is nothing to keep, and the process ends at once.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from fairseq import checkpoint_utils
from omegaconf import DictConfig

from fairseq_masking.compat.checkpoints import check_room, kept_of
from fairseq_masking.compat.patching import replaces

__all__ = ["STOPPED", "heeding_signals", "told_to_stop"]

logger = logging.getLogger(__name__)

_HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_SAME = 2.0  # seconds in which a terminal, a launcher and Slurm each pass the same signal on
STOPPED = "stopped"  # the file in which a rank tells its parent the signal


@dataclass
class _Told:
    """What this process was told."""

    heard: int = 0  # the signal that arrived here; 0 for none
    at: float = 0.0
    agreed: float | torch.Tensor = 0.0  # what every rank knows of since the last update: a sum of powers of 100,000
    passes_on: bool = False  # to the ranks that this process has started; it trains nothing itself
    training: bool = False  # an update has begun, so that there is something to save
    saved: int = -1  # number of updates in the last checkpoint
    process: int = field(default_factory=os.getpid)


_told = _Told()


@contextmanager
def heeding_signals(*, passes_on: bool = False) -> Iterator[None]:
    """In the block a first signal ends a training in order, a second one at once.

    Args:
        passes_on: the ranks are processes that this one has started.
    """
    global _told
    _told = _Told(passes_on=passes_on)
    if threading.current_thread() is not threading.main_thread():  # Python lets no other one handle signals
        yield
        return
    before = {number: signal.signal(number, _hear) for number in _HEEDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def told_to_stop() -> int:
    """Return the signal that has ended the training, or that its ranks were to be ended by; 0 for none."""
    return _told.heard if _told.passes_on else _agreed()


def _hear(number: int, frame: object) -> None:
    if os.getpid() != _told.process:
        return  # a data worker, which its training ends
    now, name = time.monotonic(), signal.Signals(number).name
    if not _told.heard:
        _told.heard, _told.at = number, now
        if _told.passes_on:
            for rank in multiprocessing.active_children():
                with suppress(ProcessLookupError):
                    os.kill(rank.pid or 0, number)
        elif not _told.training:
            raise SystemExit(128 + number)
        os.write(2, f"{name}: this update is finished and saved first; another signal ends at once\n".encode())
    elif now - _told.at > _SAME:
        _end_at_once(number)


def _end_at_once(number: int) -> NoReturn:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)


@replaces("fairseq_cli.train", "train")
def _train(original: Callable[..., Any], cfg: DictConfig, trainer: Any, *rest: Any) -> Any:
    if not (_told.training or cfg.checkpoint.no_save):
        check_room(cfg.checkpoint.save_dir, trainer.model)
    _told.training = True
    return original(cfg, trainer, *rest)


@replaces("fairseq.trainer:Trainer", "_aggregate_logging_outputs")
def _sum_with_signals(
    original: Callable[..., Any], self: Any, logging_outputs: Any, *sums: Any, ignore: bool = False
) -> Any:
    """Each rank's signal as a power of 100,000: so many may have heard it, and the sum tells which it was."""
    power = 1e5 ** _HEEDED.index(signal.Signals(_told.heard)) if _told.heard else 0.0
    outputs, summed = original(self, logging_outputs, *sums, power, ignore=ignore)
    if len(sums) > 1:  # of an update; a validation sums one thing
        _told.agreed = summed[-1]
    return outputs, summed[:-1]


@replaces("fairseq.trainer:Trainer", "_check_grad_norms")
def _check_and_read(original: Callable[..., Any], self: Any, grad_norm: Any) -> None:
    """The device was waited for here just now: reading the sum costs no further wait."""
    original(self, grad_norm)
    _told.agreed = float(_told.agreed)


def _agreed() -> int:
    found = float(_told.agreed)
    return int(next((_HEEDED[place] for place in (2, 1, 0) if found >= 1e5**place), 0))


@replaces(checkpoint_utils, "save_checkpoint")
def _save(original: Callable[..., Any], cfg: DictConfig, trainer: Any, *rest: Any, **options: Any) -> Any:
    if not cfg.no_save and trainer.should_save_checkpoint_on_current_rank:
        check_room(cfg.save_dir, trainer.model)
    saved = original(cfg, trainer, *rest, **options)
    _told.saved = trainer.get_num_updates()
    return saved


@replaces("fairseq_cli.train", "validate_and_save")
def _validate_save_and_stop(
    original: Callable[..., Any], cfg: DictConfig, trainer: Any, task: Any, epoch_itr: Any, *rest: Any
) -> Any:
    losses, ends = original(cfg, trainer, task, epoch_itr, *rest)
    if trainer.data_parallel_world_size == 1 and _told.heard:
        _told.agreed = 1e5 ** _HEEDED.index(signal.Signals(_told.heard))
    if ends or not (number := _agreed()):
        _told.agreed = 0.0
        return losses, ends
    updates = trainer.get_num_updates()
    if _told.saved != updates:
        checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)
    if trainer.is_data_parallel_master:
        kept = kept_of(cfg.checkpoint, updates, "the same command goes on from there")
        logger.warning("stopped by %s: %s", signal.Signals(number).name, kept)
    return losses, True
