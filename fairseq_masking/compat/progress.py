"""What a training tells: first what it is, then how far it is and the time left, and JSON in a file.

The file is ``train.log`` in the save folder, or ``--log-file``. What fairseq logs before (all settings in one
line, the model's layers) stands there, not on the console, where it would hide what the run is.
"""

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics, progress_bar
from omegaconf import DictConfig
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from fairseq_masking.compat.distributed import runs_on_cpu
from fairseq_masking.compat.patching import replaces
from fairseq_masking.compat.recipes import hardware_of_recipe

__all__ = ["forget_the_run", "begin_quietly", "quieten_what_no_user_asked_for", "summary", "tell_the_rest"]

logger = logging.getLogger("fairseq_masking")

_MEASURED = (1, 10)  # updates whose time tells that of all, roughly at first
_PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "amp": "fp16 by autocast"}


@dataclass
class _Run:
    """The training of this process; ``held`` is what was logged before it began."""

    cfg: DictConfig
    held: list[logging.LogRecord] = field(default_factory=list)
    begun: bool = False
    timed: list[int] = field(default_factory=list)  # after how many updates the time was told
    done: int = 0  # updates
    total: int = 0  # updates, 0 where there is no end
    epoch_updates: int = 0
    file: logging.Handler = field(default_factory=logging.NullHandler)


_run: _Run | None = None


def quieten_what_no_user_asked_for() -> None:
    """Take back that fairseq's import shows every package's debug lines, and hide what its calls are warned of.

    One of its models asks for the debug lines; LOGLEVEL=DEBUG leaves them.
    """
    warnings.filterwarnings("ignore", "'pin_memory' argument is set", UserWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"hydra\.")  # of fairseq's old Hydra ways
    warnings.filterwarnings("ignore", "`torch.cuda.amp", FutureWarning)
    if logging.root.level == logging.DEBUG and os.environ.get("LOGLEVEL", "").upper() != "DEBUG":
        logging.root.setLevel(logging.INFO)


def begin_quietly(cfg: DictConfig) -> None:
    """Hold back what is logged until the training says what it is; a command that evaluates is left alone."""
    global _run
    _run = _Run(cfg) if cfg.common_eval.path is None else None
    _quieten_consoles()
    if cfg.common.tensorboard_logdir and progress_bar.SummaryWriter is None:
        logger.warning("tensorboard is not installed (pip install tensorboard): nothing goes to --tensorboard-logdir")


def tell_the_rest() -> None:
    """At the end: show what this package has logged where no training began, such as that there is nothing to do."""
    if _run is not None:
        _release(_run)
        _run.file.close()


def forget_the_run() -> None:
    """At the very end, also of a run that failed: what the process trains next is not of it."""
    global _run
    _run = None


def summary(run_cfg: DictConfig, model: torch.nn.Module, *, epoch_updates: int, done: int, update_freq: int) -> str:
    """Return what a run is, a line a thing.

    Args:
        epoch_updates: updates of an epoch.
        done: updates of the run so far.
        update_freq: batches of an update, on each rank.
    """
    task, data, ranks = run_cfg.task, run_cfg.dataset, run_cfg.distributed_training.distributed_world_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = {"method": f"{run_cfg.criterion._name} with {run_cfg.model._name}, {parameters:,} parameters"}
    if "mask_splits_over" in task:
        end = "" if task.mask_prob_end is None else f" to {task.mask_prob_end:.0%}"
        law = " by the model's guesses" if str(task.mask_law) == "adaptive" else ""
        lines["masks"] = f"{task.mask_prob:.0%}{end} of a sequence, {task.mask_unit}s{law}"
        if task.mask_splits > 1:
            disjoint = " that never overlap" if str(task.mask_splits_law) == "disjoint" else ", independent"
            over = ", one an epoch" if str(task.mask_splits_over) == "epochs" else ""
            lines["masks"] += f", {task.mask_splits} masks of a sequence{disjoint}{over}"
    batches, length = update_freq * ranks, task.get("tokens_per_sample")
    rows = data.batch_size and data.batch_size * batches
    tokens = data.max_tokens * batches if data.max_tokens else rows * length if length else 0
    sizes = ([f"{rows:,} rows"] if rows else []) + ([f"up to {tokens:,} tokens"] if tokens else [])
    lines["update"] = f"{', '.join(sizes)} ({update_freq} batches x {ranks} processes)"
    total = _total(run_cfg, epoch_updates)
    lines["length"] = f"{total:,} updates, {total / epoch_updates:.3g} epochs" if total else "no end is set"
    lines["length"] += f"; {done:,} updates are done" if done else ""
    device = torch.cuda.get_device_name() if not runs_on_cpu(run_cfg) else "CPU"
    device += "" if device != "CPU" or run_cfg.common.cpu else " for lack of a GPU (--cpu says that it is meant)"
    precision = next((name for option, name in _PRECISIONS.items() if run_cfg.common[option]), "fp32")
    lines |= {"device": f"{device}, {precision}", "data": task.data, "folder": run_cfg.checkpoint.save_dir}
    lines |= {"log": str(_log_file(run_cfg)), "time": f"told after update 2, better after {_MEASURED[-1] + 1}"}
    if hardware := hardware_of_recipe():
        lines["time"] += f"; the recipe says: {hardware}"
    return "this run\n" + "\n".join(f"  {name:<8}{text}" for name, text in lines.items())


def _log_file(cfg: DictConfig) -> Path:
    return Path(cfg.common.log_file or Path(cfg.checkpoint.save_dir) / "train.log")


def _total(cfg: DictConfig, epoch_updates: int) -> int:
    ends = (cfg.optimization.max_update, cfg.optimization.max_epoch * epoch_updates)
    return min((end for end in ends if end), default=0)


def _may_be_shown(record: logging.LogRecord) -> bool:
    if _run is None or _run.begun or record.levelno >= logging.WARNING:
        return True
    _run.held.append(record)
    return False


def _consoles() -> list[logging.Handler]:
    return [handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler]


def _quieten_consoles() -> None:
    for handler in _consoles():
        handler.addFilter(_may_be_shown)  # once: the same again changes nothing


@replaces(metrics, "reset")
def _reset(original: Callable[[], None]) -> None:
    """fairseq calls it when the consoles are those that Hydra wants."""
    original()
    _quieten_consoles()


def _release(run: _Run) -> None:
    held, run.held, run.begun = run.held, [], True
    for record in held:
        if record.name.startswith(logger.name) or record.getMessage().startswith("Loaded checkpoint"):
            for console in _consoles():
                console.handle(record)


@replaces("fairseq.trainer:Trainer", "begin_epoch")
def _begin_epoch(original: Callable[..., None], self: Any, epoch: int) -> None:
    original(self, epoch)
    run = _run
    if run is None or run.begun:
        return
    cfg, held = run.cfg, list(run.held)
    run.done, run.total = self.get_num_updates(), _total(cfg, run.epoch_updates)
    frequencies = cfg.optimization.update_freq
    update_freq = frequencies[min(epoch, len(frequencies)) - 1]
    if distributed_utils.is_master(cfg.distributed_training):
        if not (cfg.common.log_file and cfg.common.log_format == "json"):  # there fairseq writes the same
            run.file = _LogFile(_log_file(cfg), encoding="utf-8")
            run.file.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s"))
        for record in held if not cfg.common.log_file else ():
            run.file.handle(record)
    run.begun = True
    logger.info(summary(cfg, self.model, epoch_updates=run.epoch_updates, done=run.done, update_freq=update_freq))
    _release(run)


@replaces(progress_bar, "progress_bar")
def _bar(original: Callable[..., Any], iterator: Any, **options: Any) -> Any:
    known = [getattr(handler, "baseFilename", None) for handler in progress_bar.logger.handlers]
    if options.get("log_file") and os.path.abspath(options["log_file"]) in known:
        options["log_file"] = None  # or each epoch's lines would stand there once more
    if progress_bar.SummaryWriter is None:
        options["tensorboard_logdir"] = None
    if _run is None:
        return original(iterator, **options)
    wanted = options.get("log_format") or options.get("default_log_format")
    trains = options.get("prefix") is None
    one_line = trains and wanted == "tqdm" and sys.stderr.isatty()
    if trains:
        _run.epoch_updates = len(iterator)
    bar = original(iterator, **(options | ({"log_format": "none"} if one_line else {})))
    return _Told(bar, _run, trains, one_line)


class _LogFile(logging.FileHandler):
    """Where there is no room it leaves lines out, which is said once: logging prints a traceback for each."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(error := sys.exc_info()[1], OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            logger.warning("%s cannot be written (%s): lines are missing there", self.baseFilename, error.strerror)

    def close(self) -> None:
        with suppress(OSError):  # it tries what was left out again
            super().close()


class _Told(progress_bar.BaseProgressBar):
    """fairseq's bar, with JSON in the file; on a terminal one line for the run, with loss and time left."""

    def __init__(self, bar: Any, run: _Run, trains: bool, one_line: bool) -> None:
        self.bar, self.run, self.trains, self.one_line = bar, run, trains, one_line
        self.line: Any = None

    def __len__(self) -> int:
        return len(self.bar)

    def __iter__(self) -> Iterator[Any]:
        if not self.one_line:
            yield from self._timed() if self.trains else self.bar
            return
        with logging_redirect_tqdm(), tqdm(total=self.run.total or None, initial=self.run.done, unit="") as self.line:
            for batch in self._timed():
                yield batch
                self.line.update()

    def _timed(self) -> Iterator[Any]:
        start, run = 0.0, self.run
        for number, batch in enumerate(self.bar):
            if number == 1:  # the first one compiles and allocates
                start = time.monotonic()
            if number - 1 in _MEASURED and number - 1 not in run.timed:
                run.timed.append(number - 1)
                each = (time.monotonic() - start) / (number - 1)
                left = f"{timedelta(seconds=round(each * (run.total - run.done)))} to go, " if run.total else ""
                logger.info("time: about %s%.3g s an update, without validation", left, each)
            yield batch
            run.done += 1

    def log(self, stats: dict[str, Any], tag: str | None = None, step: int | None = None) -> None:
        """Write the stats of an interval, show the loss."""
        self._write(stats, tag)
        self.bar.log(stats, tag=tag, step=step)
        if self.line is not None:
            self.line.set_postfix(loss=progress_bar.format_stat(stats["loss"]), refresh=False)

    def print(self, stats: dict[str, Any], tag: str | None = None, step: int | None = None) -> None:
        """Write and show the stats of an epoch or of a validation."""
        self._write({f"{tag}_{name}": value for name, value in stats.items()}, tag)
        self.bar.print(stats, tag=tag, step=step)

    def update_config(self, config: Any) -> None:
        """Hand the settings on."""
        self.bar.update_config(config)

    def _write(self, stats: dict[str, Any], tag: str | None) -> None:
        values = {name: progress_bar.format_stat(value) for name, value in stats.items()}
        fields = {"name": tag or "train", "levelname": "INFO", "levelno": logging.INFO}
        self.run.file.handle(logging.makeLogRecord({**fields, "msg": json.dumps(values)}))
