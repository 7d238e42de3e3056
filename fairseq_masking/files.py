"""Files that appear whole or not at all, files of JSON, and where the recipes lie."""

import fcntl
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fairseq_masking.errors import UserError, first_line

__all__ = [
    "as_json", "configs_folder", "hash_file", "hash_json", "held", "open_binary", "read_json", "whole_file",
    "write_json",
]  # fmt: skip

logger = logging.getLogger(__name__)

_ORPHANS_SECONDS = 15.0  # data workers look for their parent every 5 seconds


def configs_folder() -> Path:
    """Returns the folder of the recipes: inside of the installed package, or beside it in a clone."""
    package = Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")
    return next((folder for folder in folders if (folder / "pretrain").is_dir()), folders[0])


def read_json(path: Path, way_out: str = "", *, optional: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file; an optional one that is not there is empty. ``way_out`` ends an error's line.

    Raises:
        UserError: missing, no JSON, or no object.
    """
    if optional and not path.exists():
        return {}
    end = way_out and f"; {way_out}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing, unreadable or no JSON ({first_line(error)}){end}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object{end}")
    return values


def as_json(value: Any, *, indent: int = 1) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any, *, indent: int = 1) -> None:
    """Write a JSON file, whole or not at all; its folder is made."""
    with whole_file(path) as partial:
        partial.write_text(as_json(value, indent=indent), encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields where to write what becomes ``path`` when the block ends well; if it fails, nothing has changed.

    The folder is made. A device or a pipe is written to itself.

    Raises:
        OSError: of the block or of putting the file in place, with the name of ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        yield path
        return
    target = path.resolve()  # a link stays one
    partial = target.with_name(f".{target.name}")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def held(path: Path, what: str = "", *, remove: bool = False) -> Iterator[int]:
    """Yields a descriptor that keeps ``path`` locked; a process that it is passed to goes on keeping it.

    The file names host and process. A kill frees it, once the data workers of the killed process have ended, which
    is waited for; on a network file system it is a lock of that (Linux turns ``flock`` into one on NFS).

    Args:
        what: is being done, for the line (default: the folder is being trained).
        remove: leave no file; not where another process goes on with the lock.

    Raises:
        UserError: another process holds the lock.
    """
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # its holder has just removed the folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(lock)):  # else it was just removed
                break
        except BlockingIOError:
            owner = os.read(lock, 200).decode("utf-8", "replace")
            if time.monotonic() > deadline or not _has_died(owner):
                os.close(lock)
                done = what or f"{path.parent} is being trained"
                raise UserError(f"{done} by another process ({owner or 'unknown'}): wait for it or end it") from None
            time.sleep(0.1)
        except OSError as error:
            logger.warning("%s: no locks here (%s): keep other runs out of it yourself", path.parent, error.strerror)
            break
        os.close(lock)
    try:
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield lock
    finally:
        if remove:
            path.unlink(missing_ok=True)
        os.close(lock)


def _has_died(owner: str) -> bool:
    """Whether a lock's text names a process of this host that is no more."""
    words = owner.split()
    if words[2:] != ["on", socket.gethostname()]:
        return False
    try:
        state = Path(f"/proc/{words[1]}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return state.rpartition(") ")[2][0] in "ZX"  # killed, and not yet waited for by its parent


def hash_file(path: str | Path, progress: Callable[[int], object] | None = None) -> str:
    """Returns the SHA-256 of a file as it lies on disk; ``progress`` is told of each number of bytes that are read.

    Raises:
        UserError: as ``open_binary``.
    """
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Returns the SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def open_binary(path: str | Path, way_out: str = "") -> BinaryIO:
    """Opens a file to read its bytes; ``way_out`` is what the user can do beside checking the path.

    Raises:
        UserError: it is missing, unreadable or empty.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path{way_out and f', or {way_out}'}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}{way_out and f'; {way_out}'}") from error
    if os.fstat(file.fileno()).st_size == 0 and os.path.isfile(path):
        file.close()
        raise UserError(f"{path} is empty; {way_out or 'remove it from the inputs or fetch it again'}")
    return file
