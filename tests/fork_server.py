"""Commands that need fairseq, each in a process of its own, forked from one that has imported fairseq already.

A command spends 6 seconds of CPU on imports before it does anything. Two servers import torch and fairseq once
and run nothing themselves: "plugin" has imported this package, too, as where it is installed, and "plain" has
not, for what --user-dir does. Each command is a child of one of them, with arguments, folder, variables and
output of its own, which begins where a console script's ``main`` begins and ends as an interpreter ends.
All workers of a test run share the servers, and multiprocessing's own fork servers, those of ``finetune`` and
``compare``, are children of "plugin" as well, but where "plain" starts the command.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

__all__ = ["PROGRAMS", "interpreter_status", "run_forked", "share_fork_servers", "start_servers"]

PROGRAMS = {
    "fairseq-train": "fairseq_cli.train:cli_main",
    "fairseq-validate": "fairseq_cli.validate:cli_main",
    "fairseq-hydra-train": "fairseq_cli.hydra_train:cli_main",
    "fairseq-masking": "fairseq_masking.cli.main:main",
    "torchrun": "torch.distributed.run:main",
    "python -c": "",  # a program text
}
_FORK_SERVER = "multiprocessing's fork server"  # the program that two descriptors come with: where to listen, whom for
SERVERS = ("plain", "plugin")
_FOLDER = "FAIRSEQ_MASKING_FORK_SERVERS"  # of their sockets, in the environment
_PRELOADED = ("fairseq_cli.train", "hydra.core.global_hydra", "torch.utils.data", "torch._dynamo")  # DDP imports it
_process: subprocess.Popen | None = None


def run_forked(
    program: str,
    arguments: list[str],
    *,
    cwd: Path | None,
    environment: dict[str, str],
    timeout: float,
    started: Callable[[int], None] | None,
    server: str,
) -> tuple[int, str, str]:
    """Return exit status (negative: a signal's number), stdout and stderr of a program of ``PROGRAMS``.

    Args:
        started: called with its process id, which is its session's and group's, too.
        server: one of ``SERVERS``.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        places = {"cwd": str(cwd or os.getcwd()), "environment": environment, "outputs": list(map(str, outputs))}
        with _ask(server, {"program": program, "arguments": arguments, **places}) as (asked, pid):
            if started is not None:
                started(pid)
            if not select.select([asked], [], [], timeout)[0]:  # closed by its server after the last reply
                os.killpg(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([program, *arguments], timeout)
            return int(asked.readline()), *(path.read_text(encoding="utf-8", errors="replace") for path in outputs)


@contextlib.contextmanager
def _ask(server: str, request: dict[str, Any], descriptors: Sequence[int] = ()) -> Iterator[tuple[Any, int]]:
    """Yield what its server replies on, and the process id of what it has started."""
    start_servers()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(f"{os.environ[_FOLDER]}/{server}")
        socket.send_fds(asking, [b"%d\n" % len(descriptors)], descriptors)
        asking.sendall(json.dumps(request).encode() + b"\n")
        with asking.makefile() as replies:
            yield replies, int(replies.readline())


def share_fork_servers() -> None:
    """Let this process's fork server be a child of "plugin": its own would import all of it once more."""

    def ensure_running(self: Any) -> None:
        with self._lock, socket.socket(socket.AF_UNIX) as listener:
            if self._forkserver_address is not None:
                return
            self._forkserver_address = connection.arbitrary_address("AF_UNIX")
            listener.bind(self._forkserver_address)
            listener.listen()
            ours, self._forkserver_alive_fd = os.pipe()
            request = {"program": _FORK_SERVER, "arguments": self._preload_modules, "outputs": []}
            request |= {"cwd": os.getcwd(), "environment": dict(os.environ)}
            with _ask("plugin", request, [listener.fileno(), ours]):
                os.close(ours)

    forkserver.ForkServer.ensure_running = ensure_running


def start_servers() -> None:
    """Start them, if who started this process has not; they end with the process that did."""
    if _FOLDER in os.environ:
        return
    folder = os.environ[_FOLDER] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    listeners = [socket.socket(socket.AF_UNIX) for _ in SERVERS]
    for name, listener in zip(SERVERS, listeners, strict=True):
        listener.bind(f"{folder}/{name}")
        listener.listen()  # who asks before it is ready waits
    descriptors = [listener.fileno() for listener in listeners]
    global _process
    _process = subprocess.Popen(
        [sys.executable, __file__, *map(str, descriptors)],
        stdin=subprocess.PIPE,  # closed when we end, which ends the servers
        pass_fds=descriptors,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for listener in listeners:
        listener.close()


def _serve(plain: socket.socket, plugin: socket.socket) -> None:
    os.dup2(2, 1)  # what an import prints
    for module in _PRELOADED:
        importlib.import_module(module)
    import hydra_cache

    hydra_cache.read_overrides("--task masked_lm --arch masked_lm --criterion masked_lm")
    sys.path.pop(0)  # the folder of this file
    listener, other = plain, plugin
    if os.fork() == 0:
        for module in ("fairseq_cli.hydra_train", "fairseq_masking"):  # what it mends has to be there
            importlib.import_module(module)
        hydra_cache.read_overrides("--task masked_pretraining --arch mlm_tiny --criterion mlm")
        share_fork_servers()
        listener, other = plugin, plain
    other.close()
    gc.collect()
    gc.freeze()  # memory that no collection of a command touches stays shared
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    return
                if key.fileobj is listener:
                    _start_command(listener, selector)
                else:
                    pid, asked = key.data
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _reply(asked, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    asked.close()


def _start_command(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    asked, _ = listener.accept()
    _, descriptors, *_ = socket.recv_fds(asked, 2, 2)  # a digit and a line's end
    with asked.makefile() as lines:
        request = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        _become(request, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    _reply(asked, pid)
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, asked))


def _reply(asked: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # who asked waits no longer
        asked.sendall(b"%d\n" % number)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Be the command until its end."""
    os.setsid()
    for descriptor, path in zip((1, 2), request["outputs"], strict=False):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor in set(range(3, 256)) - set(descriptors):  # the servers' sockets and their clients'
        with contextlib.suppress(OSError):
            os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    program, arguments = request["program"], request["arguments"]
    module, _, function = PROGRAMS.get(program, "").partition(":")
    sys.argv = [str(Path(sys.executable).parent / program) if module else "-c", *arguments[not module :]]
    status = 1
    try:
        if program == _FORK_SERVER:
            interpreter_status(lambda: forkserver.main(*descriptors, arguments))
        elif module:
            status = interpreter_status(lambda: getattr(importlib.import_module(module), function)())
        else:
            status = interpreter_status(lambda: exec(arguments[0], {"__name__": "__main__"}))
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def interpreter_status(function: Callable[[], int | None]) -> int:
    """The status that an interpreter ends with after a function, having told what it did not catch."""
    try:
        return function() or 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1


if __name__ == "__main__":
    _serve(*(socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:]))
    os._exit(0)  # an orderly end would only tell of what is frozen, below pytest's last line
