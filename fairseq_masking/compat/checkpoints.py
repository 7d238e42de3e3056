"""Checkpoints: loaded without running their code, and never found cut short.

torch >= 2.6 loads with ``weights_only=True``: types of an allow-list are built, nothing else is called. Stock
fairseq stores an ``argparse.Namespace`` and at times a NumPy scalar, so these few are added to the list.
They only hold data. Everything else is refused, in one line that names it.
"""

import argparse
import collections
import contextlib
import errno
import hashlib
import logging
import os
import pickle
import re
import shutil
import struct
import time
import traceback
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from fairseq_masking.compat.patching import replaces
from fairseq_masking.errors import UserError

__all__ = ["RESUME_EARLIER", "allow_safe_globals", "check_room", "loading_safely", "newest_checkpoint"]

logger = logging.getLogger(__name__)

_UNSAFE_SWITCH = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# Of a network file system that may come back, and the seconds that it is given.
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN, errno.EREMOTEIO}
_RETRIES = (5.0, 30.0, 120.0)
RESUME_EARLIER = "delete it and resume from an earlier checkpoint with --restore-file"

# A checkpoint carries the SHA-256 of itself, so that one flipped byte is found wherever it is. PyTorch's file is a zip
# archive, whose end has room for a comment, which PyTorch passes over; the digest is of it with a comment of length 0:
#   archive but for its last 2 bytes | length of the comment uint16 | "fairseq_masking sha256 " | 64 hexadecimal digits
_MARK = b"fairseq_masking sha256 "
_COMMENT = len(_MARK) + 64
_LENGTH = struct.pack("<H", _COMMENT)
_END, _END_BYTES = b"PK\x05\x06", 22  # of an archive without a comment

# What rank 0 sends to the other ranks: the state it has loaded, its configuration as OmegaConf containers.
_BROADCAST_GLOBALS = [
    *(distributed_utils._TensorPlaceholder, DictConfig, ListConfig, ContainerMetadata, Metadata, AnyNode),
    *(dict, list, int, collections.defaultdict, typing.Any),
]


def allow_safe_globals() -> None:
    """Allows what fairseq's own checkpoints hold: ``argparse.Namespace`` and NumPy's float scalars.

    The scalars come from best-checkpoint metrics such as pearson; files written by NumPy 1 name the same
    function by its old path. Keep this list short: each entry is a type that any checkpoint may build.
    """
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    scalars = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]
    torch.serialization.add_safe_globals([argparse.Namespace, *scalars])


@contextlib.contextmanager
def loading_safely(title: str, way_out: str) -> Iterator[None]:
    """Lets no code of a file run, and makes one line of what is wrong with it.

    Args:
        title: the file, at the line's start.
        way_out: what to do about a damaged one, at its end.

    Raises:
        UserError: the file would run code, is cut short or is no fairseq checkpoint.
    """
    switch = os.environ.pop(_UNSAFE_SWITCH, None)
    try:
        yield
    except (FileNotFoundError, PermissionError, UserError, MemoryError):
        raise
    except Exception as error:
        reason = _why_not_loadable(error, way_out)
        if reason is None:
            raise
        raise UserError(f"{title}: {reason}") from error
    finally:
        if switch is not None:
            os.environ[_UNSAFE_SWITCH] = switch


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Return the checkpoint of a folder that was written last; None where there is none."""
    there = [file for file in Path(folder).glob("checkpoint*.pt") if file.is_file()]
    return max(there, key=lambda file: file.stat().st_mtime, default=None)


def kept_of(cfg: DictConfig, updates: int, way_on: str) -> str:
    """Say what a training that is saved and ended after ``updates`` leaves behind, and the way on if anything."""
    if cfg.no_save or cfg.no_last_checkpoints:
        return f"{updates:,} updates were made and not saved, as --no-save or --no-last-checkpoints says"
    return f"all {updates:,} updates are in {Path(cfg.save_dir) / 'checkpoint_last.pt'}, {way_on}"


def check_room(save_dir: str, model: torch.nn.Module) -> None:
    """Compare the room in a folder with a checkpoint: weights and two moments of each, in fp32.

    Raises:
        UserError: there is less.
    """
    needed = 12 * sum(parameter.numel() for parameter in model.parameters())
    folder = Path(save_dir).absolute()
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    if free < needed:
        raise UserError(
            f"--save-dir {save_dir} has room for {free / 1e9:.3g} GB, a checkpoint takes about {needed / 1e9:.3g} GB:"
            " make room or give another"
        )


@replaces(checkpoint_utils, "load_checkpoint_to_cpu")
def _load_guarded(original: Callable[..., Any], path: str, *rest: Any, **options: Any) -> Any:
    """Every checkpoint that fairseq loads is a safe one, and every broken one a single line."""
    with loading_safely(f"checkpoint {path}", RESUME_EARLIER):
        if os.path.isfile(path):
            check_seal(path, RESUME_EARLIER)
        return original(path, *rest, **options)


def _why_not_loadable(error: Exception, way_out: str) -> str | None:
    """The end of the user's line, or None where the file is not to blame."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if torch.load.__code__ in codes:
        if isinstance(error, pickle.UnpicklingError) and (culprit := _forbidden_global(str(error))):
            return (
                f"refused, because loading it would call or build {culprit}, and a checkpoint may hold "
                "only tensors, plain Python values and argparse.Namespace; use one from a trusted source"
            )
        return f"cannot be read, it is cut short or no PyTorch file ({type(error).__name__}); {way_out}"
    files = [os.path.realpath(code.co_filename) for code in codes]
    in_fairseq = files[-1:] == [os.path.realpath(checkpoint_utils.__file__)]
    if in_fairseq and isinstance(error, (KeyError, TypeError, AttributeError, IndexError)):
        return "a PyTorch file, but not a fairseq checkpoint (no model with its training state inside)"
    return None


def _forbidden_global(message: str) -> str | None:
    """The name that torch's weights_only unpickler refused, from its message; None for a damaged stream."""
    found = re.search(r"GLOBAL (\S+)", message) or re.search(r"unrecognized function (<[^>]+>|\S+)", message)
    if found is None and "allowlisted" in message:
        found = re.search(r"but got (?:<class )?'?([\w.]+)", message)
    return found.group(1) if found else None


@replaces(distributed_utils, "_broadcast_object_slow")
def _with_broadcast_globals(original: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Ranks above 0 resume from what rank 0 has loaded: the longer list holds for messages, never for a file."""
    with torch.serialization.safe_globals(_BROADCAST_GLOBALS):
        return original(*args, **options)


@replaces(PathManager, "copy")
def _copy_then_rename(original: Callable[..., Any], src_path: str, dst_path: str, overwrite: bool = False) -> Any:
    """checkpoint_last.pt and checkpoint_best.pt appear whole: fairseq's plain copy is cut short by a kill."""
    if PathManager.path_requires_pathmanager(src_path) or PathManager.path_requires_pathmanager(dst_path):
        return original(src_path, dst_path, overwrite=overwrite)
    _write_whole(dst_path, lambda temporary: shutil.copyfile(src_path, temporary))
    return dst_path


@replaces(checkpoint_utils, "torch_persistent_save")
def _save_whole(original: Callable[..., Any], obj: Any, filename: str, async_write: bool = False) -> None:
    """fairseq tries three times into one file, prints each traceback and keeps its ``.tmp``."""
    if async_write or not PathManager.supports_rename(filename):
        return original(obj, filename, async_write=async_write)

    def save(temporary: str) -> None:
        with open(temporary, "wb") as file:
            torch.save(obj, file)
        _seal(temporary)

    _write_whole(filename, save)


def _write_whole(path: str, write: Callable[[str], Any]) -> None:
    """Write a file, whole or not at all; what a file system may get over by itself is waited for."""
    temporary = f"{path}.tmp"  # the name that fairseq's own atomic save uses
    for seconds in (*_RETRIES, None):
        try:
            write(temporary)
            os.replace(temporary, path)
            return
        except (OSError, RuntimeError) as error:
            # torch's writer may fail once more while it is closed, of what the system has said before
            links = [link for link in (error, error.__context__) if isinstance(link, OSError) and link.strerror]
            if not links:
                raise
            if seconds is not None and links[0].errno in _PASSING:
                logger.warning("%s cannot be written (%s): again in %g s", path, links[0].strerror, seconds)
                time.sleep(seconds)
                continue
            last = newest_checkpoint(Path(path).parent)
            kept = f"the last whole one is {last}" if last else "there is none before it"
            raise UserError(
                f"{path} cannot be written ({links[0].strerror}): {kept}; make room, then start again"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


@replaces(checkpoint_utils, "verify_checkpoint_directory")
def _verify_and_clean(original: Callable[..., Any], save_dir: str) -> None:
    """What a killed run left half-written goes at the next start."""
    try:
        original(save_dir)
    except OSError as error:
        raise UserError(f"--save-dir {save_dir} cannot be written to ({error.strerror}): give another") from error
    if not PathManager.path_requires_pathmanager(save_dir):
        for leftover in Path(save_dir).glob("checkpoint*.pt.tmp"):
            leftover.unlink(missing_ok=True)


def _seal(path: str) -> None:
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        digest = _digest(file, size - 2)
        file.seek(size - 2)
        file.write(_LENGTH + _MARK + digest)


def check_seal(path: str | Path, way_out: str) -> None:
    """Compare a PyTorch file with its digest; one of before has none, which is logged.

    Raises:
        UserError: it is not as it was written.
    """
    stat = os.stat(path)
    if not _is_whole(os.path.abspath(path), stat.st_size, stat.st_mtime_ns):
        raise UserError(
            f"{path} is damaged, cut short or no PyTorch file (its SHA-256 is not that it was written with); {way_out}"
        )


@cache
def _is_whole(path: str, size: int, mtime: int) -> bool:
    with open(path, "rb") as file:
        if size < _COMMENT + _END_BYTES or file.read(4) != b"PK\x03\x04":
            return True  # no archive of ours: torch says what it is
        file.seek(size - _END_BYTES)
        if file.read(4) == _END:
            logger.info("%s is of before and has no digest: it is read as it is", path)
            return True
        file.seek(size - _COMMENT - 2)
        ending = file.read()
        return ending == _LENGTH + _MARK + _digest(file, size - _COMMENT - 2)


def _digest(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while size and (chunk := file.read(min(size, 1 << 22))):
        digest.update(chunk)
        size -= len(chunk)
    digest.update(bytes(2))
    return digest.hexdigest().encode()
