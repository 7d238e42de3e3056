"""fairseq's commands, each in a process of its own, forked from one that has imported fairseq already.

A command spends 6 seconds of CPU on imports before it does anything. A server imports torch and fairseq once,
but nothing of ours, and runs nothing itself; each command is a child of it with arguments, folder, variables
and output of its own, which begins where a console script's ``main`` begins and ends as an interpreter ends.
"""

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["PROGRAMS", "run_forked"]

PROGRAMS = {
    "fairseq-train": "fairseq_cli.train",
    "fairseq-validate": "fairseq_cli.validate",
    "fairseq-hydra-train": "fairseq_cli.hydra_train",
}
_PRELOADED = ("fairseq_cli.train", "hydra.core.global_hydra", "torch.utils.data")
_server: subprocess.Popen | None = None


def run_forked(
    program: str,
    arguments: list[str],
    *,
    cwd: Path | None,
    environment: dict[str, str],
    timeout: float,
    started: Callable[[int], None] | None = None,
) -> tuple[int, str, str]:
    """Return exit status (negative: a signal's number), stdout and stderr of a program of ``PROGRAMS``.

    Args:
        started: called with its process id, which is its session's and group's, too.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was killed.
    """
    server = _started()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        request = {
            "program": program,
            "arguments": arguments,
            "cwd": str(cwd or os.getcwd()),
            "environment": environment,
            "outputs": list(map(str, outputs)),
        }
        server.stdin.write(json.dumps(request).encode() + b"\n")
        pid = int(server.stdout.readline())
        if started is not None:
            started(pid)
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.killpg(pid, signal.SIGKILL)
            server.stdout.readline()
            raise subprocess.TimeoutExpired([program, *arguments], timeout)
        status = int(server.stdout.readline())
        return status, *(path.read_text(encoding="utf-8", errors="replace") for path in outputs)


def _started() -> subprocess.Popen:
    global _server
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a line that waits in a buffer would not wake select
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        atexit.register(_server.kill)
    return _server


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints
    for module in _PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
        print(pid, file=replies, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=replies, flush=True)


def _become(request: dict[str, Any]) -> None:
    """Be the command until its end."""
    os.setsid()
    for descriptor, path in zip((1, 2), request["outputs"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [str(Path(sys.executable).parent / request["program"]), *request["arguments"]]
    sys.path.pop(0)  # the folder of this file
    status = 1
    try:
        importlib.import_module(PROGRAMS[request["program"]]).cli_main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
