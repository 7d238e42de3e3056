"""Where the frozen behaviour lies, digests, the machine it was frozen on, and the package's own commands.

Everything here and beside it goes through faces that outlive a move of the package's files: fairseq's
registries, its commands, ``fairseq_masking.models`` and the one command.
"""

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

__all__ = [
    "DATA", "digest", "file_digest", "folder_digests", "machine", "one_thread", "read",
    "run_command_here", "tensor_digest", "write",
]  # fmt: skip

DATA = Path(__file__).parent / "data"


def run_command_here(*verbs: str, options: list[str | Path]) -> None:
    """``python -m fairseq_masking VERB ...`` here, where everything is imported; it must end well."""
    output = io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", ["fairseq_masking", *verbs, *map(str, options)]),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            runpy.run_module("fairseq_masking", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        assert not stop.code, output.getvalue()


def digest(data: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return digest(path.read_bytes())


def folder_digests(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Path in the folder -> SHA-256, hidden files included."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)): path for path in paths}
    return {name: file_digest(path) for name, path in names.items() if path.name not in without}


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bits."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def machine() -> dict[str, str]:
    """What sums of floats hang on: equal machines give equal bits."""
    cpu = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            cpu[name.strip()] = value.strip()
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": cpu.get("model name", platform.processor()),
        "family": f"{cpu.get('cpu family', '')}.{cpu.get('model', '')}",
        "sentencepiece": version("sentencepiece"),
    }


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The number of threads decides the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read(name: str) -> Any:
    """What was frozen."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def write(name: str, values: Any) -> None:
    """Freeze."""
    text = json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True)
    text = re.sub(r"\[\s+([^][{}\"]+?)\s+\]", lambda found: f"[{re.sub(chr(10) + ' +', ' ', found[1])}]", text)
    (DATA / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}.json {os.path.getsize(DATA / f'{name}.json'):,} bytes", flush=True)
