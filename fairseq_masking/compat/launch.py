"""The wrapper around fairseq's ``call_main``, through which each of its commands starts its work."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from omegaconf import DictConfig, OmegaConf
from torch.multiprocessing.spawn import ProcessException

from fairseq_masking.compat.distributed import complete_launch_settings, runs_on_cpu, spawns_cpu_ranks
from fairseq_masking.compat.errors import exit_with, one_line, users_error_in
from fairseq_masking.compat.patching import replace_at_start, replaces
from fairseq_masking.compat.progress import forget_the_run, tell_the_rest
from fairseq_masking.compat.runs import give_jobs_folders_of_their_own, reset_process_state, say_warnings_again
from fairseq_masking.compat.signals import STOPPED, heeding_signals, told_to_stop
from fairseq_masking.files import held

__all__ = ["RankMain", "before_start", "prepare_start"]

_PACKAGE = sys.modules[__package__.partition(".")[0]]
_before_start: list[Callable[[DictConfig], None]] = []


def before_start(*hooks: Callable[[DictConfig], None]) -> None:
    """Has ``hooks`` called, in this order, with the configuration before a command's work.

    In every process that does some of it, and in the one that starts the others.
    """
    _before_start.extend(hooks)


def prepare_start(cfg: DictConfig) -> None:
    """Do what comes before a training where none follows: complete its settings, then have the hooks called."""
    complete_launch_settings(cfg)
    try:
        _prepare(cfg)
        tell_the_rest()
    finally:
        forget_the_run()


class RankMain:
    """A command's ``main`` as a started rank runs it: leaves a UserError's line in a folder for the parent.

    An instance travels by pickle; unpickling it mends fairseq in the new process, and registers what this
    package has, before anything else happens there.
    """

    def __init__(self, main: Callable[..., Any], reports: str) -> None:
        self.main = main
        self.reports = reports

    def __setstate__(self, state: dict[str, Any]) -> None:
        _PACKAGE.register()
        self.__dict__.update(state)

    def __call__(self, cfg: DictConfig, **options: Any) -> None:
        try:
            if runs_on_cpu(cfg):  # data workers are forked, as without ranks: a server's would import all again
                multiprocessing.set_start_method(None, force=True)
            _work(lambda: self._main(cfg, options))
            if told_to_stop():  # with status 0: the parent ends the others where one fails
                (Path(self.reports) / STOPPED).write_text(str(told_to_stop()), encoding="utf-8")
        except Exception as error:
            user_error = users_error_in(error)
            if user_error is None:
                raise
            rank = cfg.distributed_training.distributed_rank
            (Path(self.reports) / f"rank{rank:06d}").write_text(one_line(user_error), encoding="utf-8")
            sys.exit(1)

    def _main(self, cfg: DictConfig, options: dict[str, Any]) -> None:
        _prepare(cfg)
        self.main(cfg, **options)


@replaces(distributed_utils, "call_main")
def _call_main(original: Callable[..., Any], cfg: DictConfig, main: Callable[..., Any], **options: Any) -> None:
    """Every started rank registers this package, and a mistake of the user's is one line, not a traceback a rank."""
    reset_process_state()
    try:
        _set_user_dir(cfg)
        give_jobs_folders_of_their_own(cfg)
        with _alone_in_its_folder(cfg):
            complete_launch_settings(cfg)
            _prepare(cfg)
            settings = cfg.distributed_training
            if settings.distributed_init_method is not None and not settings.distributed_no_spawn:
                _call_in_new_processes(original, cfg, main, options)
                return
            _work(lambda: original(cfg, main, **options))
        if told_to_stop():
            sys.exit(128 + told_to_stop())
    except Exception as error:
        user_error = users_error_in(error)
        if user_error is None:
            raise
        if not _speaks_for_all_ranks(cfg):
            sys.exit(1)
        exit_with(one_line(user_error))
    finally:
        forget_the_run()


def _work(main: Callable[[], Any]) -> None:
    with heeding_signals():
        main()
    say_warnings_again()
    tell_the_rest()


@contextlib.contextmanager
def _alone_in_its_folder(cfg: DictConfig) -> Iterator[None]:
    """Of a training that saves, in its first process: no other one may write to its folder."""
    folder = Path(cfg.checkpoint.save_dir)
    rank = os.environ.get("RANK", str(cfg.distributed_training.distributed_rank or 0))
    saves = OmegaConf.select(cfg, "model") is not None and not cfg.checkpoint.no_save and rank == "0"
    if not saves or PathManager.path_requires_pathmanager(str(folder)):
        yield
        return
    is_new = not folder.exists()
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a folder that cannot be written to: check_start says why
                stack.enter_context(held(folder / ".training", remove=True))
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            if is_new:
                folder.rmdir()


def _prepare(cfg: DictConfig) -> None:
    replace_at_start()
    for prepare in _before_start:
        prepare(cfg)


def _set_user_dir(cfg: DictConfig) -> None:
    """Names this package by the path it was imported from, a link to it also; another plugin's user_dir stays."""
    own = _PACKAGE.__path__[0]
    user_dir = cfg.common.user_dir or own
    same = os.path.exists(user_dir) and os.path.samefile(user_dir, own)
    if same or os.path.basename(os.path.abspath(user_dir)) == _PACKAGE.__name__:
        cfg.common.user_dir = own


def _call_in_new_processes(
    original: Callable[..., Any], cfg: DictConfig, main: Callable[..., Any], options: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory(prefix="fairseq_masking-") as reports:
        rank_main = RankMain(main, reports)
        try:
            with heeding_signals(passes_on=True):
                if spawns_cpu_ranks(cfg):
                    _spawn_cpu_ranks(cfg, rank_main, options)
                else:
                    original(cfg, rank_main, **options)
        except ProcessException:
            # The rank that failed first may only have lost its connection to the one with the reason.
            lines = [path.read_text(encoding="utf-8") for path in sorted(Path(reports).glob("rank*"))]
            if lines:
                exit_with(lines[0])
            if not told_to_stop():
                raise
        stopped = Path(reports) / STOPPED  # by a signal to one rank, or to this process
        if number := int(stopped.read_text(encoding="utf-8")) if stopped.exists() else told_to_stop():
            sys.exit(128 + number)


def _spawn_cpu_ranks(cfg: DictConfig, rank_main: RankMain, options: dict[str, Any]) -> None:
    """fairseq's spawn with as many processes as ranks; fairseq's own starts as many as there are GPUs.

    They are forked from this process where it has no second thread, whose locks a fork would leave held, else
    from a server that imports fairseq and this package once.
    """
    multiprocessing.set_forkserver_preload(["fairseq_cli.train", "fairseq_masking"])
    threads = Path("/proc/self/task")  # also those of OpenMP, OpenBLAS and autograd, unknown to Python
    num_ranks = cfg.distributed_training.distributed_world_size
    cfg.distributed_training.distributed_rank = None  # each process takes its own
    torch.multiprocessing.start_processes(
        fn=distributed_utils.distributed_main,
        args=(rank_main, cfg, {**options, "start_rank": 0}),
        nprocs=num_ranks,
        join=True,
        start_method="fork" if threads.is_dir() and len(list(threads.iterdir())) == 1 else "forkserver",
    )


def _speaks_for_all_ranks(cfg: DictConfig) -> bool:
    """Under torchrun all ranks tend to fail of the same cause: the first to come says it, or rank 0."""
    if dist.is_available() and dist.is_initialized():
        try:
            return dist.distributed_c10d._get_default_store().add("fairseq_masking/user_error", 1) == 1
        except RuntimeError:  # the rank that keeps the store has already left
            return True
    return os.environ.get("RANK", str(cfg.distributed_training.distributed_rank or 0)) == "0"
