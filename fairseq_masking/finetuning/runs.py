"""The runs of a sweep: a grid's configurations, each trained with several seeds, in a folder each.

OUT/NAME/UPDATES/TASK/CONFIGURATION/seedN/
    run.json             what it was started with, and once finished its scores
    checkpoint_last.pt   while it trains; a killed run goes on from there
    checkpoint_best.pt   of the best run of a NAME, UPDATES and TASK, unless all are kept
    output.txt           what fairseq printed

A run is ``fairseq-hydra-train`` in a process of its own, forked from a server that imports torch, fairseq and
this package once: a sweep of 240 runs would spend 40 minutes on imports.
"""

import atexit
import importlib
import itertools
import multiprocessing
import os
import re
import resource
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fairseq_masking.errors import UserError
from fairseq_masking.files import held, read_json, write_json
from fairseq_masking.finetuning.finetuned import Finetuned, scores_of
from fairseq_masking.finetuning.tasks import FinetuningTask, Start, quoted

__all__ = ["HydraRun", "Run", "best_of", "grid_of", "run_all"]

_RECORD = "run.json"
_LAST, _BEST = "checkpoint_last.pt", "checkpoint_best.pt"
_PRELOADED = ["sklearn.metrics", "torch._dynamo", "fairseq_masking", "fairseq_cli.train"]  # scores, model.init_from


class HydraRun:
    """``fairseq-hydra-train`` in a folder of its own: goes on where it was killed, is not repeated once scored.

    A subclass says the attributes; its ``finish(device)`` scores the result, records it and returns what to say.
    """

    recipe: Path
    folder: Path  # where it is
    overrides: list[str]  # what Hydra is told beside the recipe
    inputs: dict[str, str]  # what tells the files behind the overrides' paths from others in their place
    result: Path  # the checkpoint that the training leaves

    @property
    def arguments(self) -> list[str]:
        """Of the command."""
        return ["--config-dir", str(self.recipe.parent), "--config-name", self.recipe.stem, *self.overrides]

    def scores(self) -> dict[str, Any] | None:
        """Return the recorded scores; None of a run that has not finished.

        Raises:
            UserError: the folder holds a run that was started otherwise, or from files since replaced.
        """
        path = self.folder / _RECORD
        if not path.is_file():
            return None
        record = read_json(path)
        before = record.get("inputs", {})  # older runs' are not known: taken to be the same
        replaced = [name for name, stamp in self.inputs.items() if before.get(name, stamp) != stamp]
        if record["recipe"] != self.recipe.name or record["overrides"] != self.overrides:
            changed = sorted(set(record["overrides"]) ^ set(self.overrides)) or [record["recipe"]]
            other = f"that was started with other settings ({', '.join(changed)})"
        elif replaced:
            other = f"from another {' and '.join(replaced)} in the same place"
        else:
            return record.get("scores")
        raise UserError(f"{self.folder} holds a run {other}: give another --out, or remove it")

    def record(self, **found: Any) -> None:
        """Write what it was started with and what was found."""
        record = {"recipe": self.recipe.name, "overrides": self.overrides, "inputs": self.inputs, **found}
        write_json(self.folder / _RECORD, record)


@dataclass(frozen=True)
class Run(HydraRun):
    start: Start
    task: FinetuningTask
    configuration: tuple[str, ...]  # a cell of the grid, as Hydra's overrides
    seed: int
    recipe: Path  # file of configs/finetune
    metric: str  # what its best checkpoint is chosen by
    common: tuple[str, ...]  # overrides of all runs
    out: Path  # the sweep's folder

    @property
    def configuration_name(self) -> str:
        """Such as lr_1e-5-batch_size_16."""
        pairs = (override.partition("=") for override in self.configuration)
        parts = (f"{key.rpartition('.')[2]}_{value}" for key, _, value in pairs)
        return "-".join(re.sub(r"[^\w.-]", "", part) for part in parts) or "recipe"

    @property
    def task_folder(self) -> Path:
        """Of the runs of the same start and task."""
        return self.out / self.start.folder / self.task.name

    @property
    def folder(self) -> Path:
        return self.task_folder / self.configuration_name / f"seed{self.seed}"

    @property
    def overrides(self) -> list[str]:
        return [
            *self.task.overrides(self.metric),
            *self.start.overrides,
            *self.configuration,
            f"common.seed={self.seed}",
            f"checkpoint.save_dir={quoted(self.folder.absolute())}",
            *self.common,
        ]

    @property
    def inputs(self) -> dict[str, str]:
        return {"checkpoint": self.start.stamp, "data": self.task.stamp}

    @property
    def result(self) -> Path:
        return self.folder / _BEST

    def finish(self, device: str) -> str:
        """Score the best checkpoint on every split, write it down, and remove the one to resume from."""
        scores = scores_of(Finetuned.load(self.result, device=device))
        self.record(scores=scores)
        (self.folder / _LAST).unlink(missing_ok=True)
        name = f"{self.start.name} {self.task.name} {self.configuration_name} seed {self.seed}"
        return f"{name}: {self.metric} {scores['valid'][self.metric]:.2f}"


def grid_of(recipe: Path, overrides: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Return the configurations of a recipe's ``hydra.sweeper.params``, as Hydra's multirun makes them.

    The keys of ``overrides``, KEY=VALUE of all runs, are not swept.
    """
    if not recipe.is_file():
        names = ", ".join(sorted(path.stem for path in recipe.parent.glob("*.yaml")))
        raise UserError(f"no recipe {recipe}; there are: {names}")
    params = OmegaConf.select(OmegaConf.load(recipe), "hydra.sweeper.params") or {}
    fixed = {override.partition("=")[0] for override in overrides}
    parse, swept = OverridesParser.create().parse_override, []
    for key, choices in params.items():
        if key not in fixed:
            override = parse(f"{key}={choices}")
            override = override if override.is_sweep_override() else parse(f"{key}=choice({choices})")
            swept.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    return list(itertools.product(*swept))


def run_all(
    runs: Iterable[HydraRun],
    *,
    devices: Sequence[str],
    keep_checkpoints: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Train and score what has not finished, as many at a time as there are devices, "cpu", or "cuda:0" and so on.

    Without ``keep_checkpoints`` that of the best run of each start and task stays. Where a run fails, those under way
    finish and no other one starts.
    """
    runs = list(runs)
    left = [run for run in runs if run.scores() is None]
    if len(left) < len(runs):
        say(f"{len(runs) - len(left)} of {len(runs)} runs have finished before")
    if left:
        _start_server(devices[0], num_threads=max(1, (os.cpu_count() or 1) // len(devices)))
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    failed, lock = threading.Event(), threading.Lock()

    def work(number: int, run: HydraRun) -> None:
        if failed.is_set():
            return
        device, start = free.get(), perf_counter()
        try:
            _train(run, device)
            with lock:
                said = run.finish(device)
                if not keep_checkpoints:
                    _prune([other for other in runs if other.task_folder == run.task_folder])
        except BaseException:
            failed.set()
            raise
        finally:
            free.put(device)
        say(f"[{number}/{len(left)}] {said} ({perf_counter() - start:.0f} s)")

    with ThreadPoolExecutor(len(devices)) as pool:
        futures = [pool.submit(work, number, run) for number, run in enumerate(left, start=1)]
        for future in futures:
            future.result()


def _start_server(device: str, *, num_threads: int) -> None:
    """Begin to import what the runs are forked from, with the variables that count as libraries load.

    OpenMP reads its number of threads then, fairseq the number of GPUs, of which a run has one.
    """
    before = dict(os.environ)
    multiprocessing.set_forkserver_preload(_PRELOADED)
    os.environ.update({"OMP_NUM_THREADS": str(num_threads), **before, **_gpu_of(device)})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _train(run: HydraRun, device: str) -> None:
    run.record()
    output = run.folder / "output.txt"
    with output.open("ab") as file, held(run.folder / ".lock") as lock:
        before = file.tell()
        training = _Training(run.arguments, _gpu_of(device), file.fileno(), lock)
        training.start()
        training.join()
    if training.exitcode or not run.result.is_file():
        told = output.read_bytes()[before:].decode("utf-8", "replace")  # not what a run before it said
        raise UserError(f"{run.folder} failed: {_cause(told)} (all of it: {output})")


class _Training(multiprocessing.get_context("forkserver").Process):
    """``fairseq-hydra-train ARGUMENTS``, with an open file to print to.

    It holds the lock, too: it may outlive a sweep that was killed.
    """

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str], output: int, lock: int) -> None:
        super().__init__()
        self.arguments, self.variables, self.output, self.lock = arguments, variables, output, lock

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "output": DupFd(self.output), "lock": DupFd(self.lock)}

    def run(self) -> None:
        output, lock = self.output.detach(), self.lock.detach()
        for stream in (1, 2):
            os.dup2(output, stream)
        os.environ.update(self.variables)
        if torch.cuda._is_in_bad_fork():  # the server could not count GPUs without opening them
            os.set_inheritable(lock, True)
            os.execv(sys.executable, [sys.executable, "-m", "fairseq_cli.hydra_train", *self.arguments])
        multiprocessing.set_start_method(None, force=True)  # not this process's: else data workers import all again
        sys.argv = ["fairseq-hydra-train", *self.arguments]
        try:
            importlib.import_module("fairseq_cli.hydra_train").cli_main()
        except Exception:
            sys.excepthook(*sys.exc_info())
            sys.exit(1)
        finally:
            print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} KiB", flush=True)
            atexit._run_exitfuncs()


def _gpu_of(device: str) -> dict[str, str]:
    """What names a GPU to another process: CUDA_VISIBLE_DEVICES may have renumbered those of this one."""
    if device == "cpu":
        return {}
    number, visible = device.removeprefix("cuda:"), os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[int(number)].strip() if visible else number}


def _cause(output: str) -> str:
    """Why a training failed: our own error, else the last exception, else the last line."""
    # Hydra's last line is always the advice to set this.
    lines = [line for line in output.splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    for pattern in (r".*: error: (.*)", r"((?:[\w.]+(?:Error|Exception): |Could not override ).*)"):
        if found := [match[1] for line in lines if (match := re.match(pattern, line))]:
            return found[-1]
    return lines[-1] if lines else "it printed nothing"


def _prune(runs: Sequence[Run]) -> None:
    """Remove all checkpoints but the best finished run's."""
    for run in [run for run in _ranked(runs) if run.result.is_file()][:-1]:
        run.result.unlink()


def best_of(runs: Sequence[Run]) -> Path | None:
    """Return the checkpoint of the best finished run of a start and task; None where it is gone."""
    ranked = _ranked(runs)
    return ranked[-1].result if ranked and ranked[-1].result.is_file() else None


def _ranked(runs: Sequence[Run]) -> list[Run]:
    """The finished ones, the best one last; of equals the one that has its checkpoint still."""
    found = [(run, scores["valid"][run.metric]) for run in runs if (scores := run.scores())]
    return [run for run, _ in sorted(found, key=lambda pair: (pair[1], pair[0].result.is_file()))]
