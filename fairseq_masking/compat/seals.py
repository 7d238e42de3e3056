"""A checkpoint carries the SHA-256 of itself, so that one flipped byte is found wherever it is.

PyTorch's file is a zip archive, whose end has room for a comment, which PyTorch passes over:

    archive but for its last 2 bytes | length of the comment uint16 | "fairseq_masking sha256 " | 64 hexadecimal digits

The digest is of the archive as PyTorch wrote it, with a comment of length 0.
"""

import hashlib
import logging
import os
import struct
from functools import cache
from pathlib import Path
from typing import BinaryIO

from fairseq_masking.errors import UserError

__all__ = ["check_seal", "seal"]

logger = logging.getLogger(__name__)

_MARK = b"fairseq_masking sha256 "
_COMMENT = len(_MARK) + 64
_LENGTH = struct.pack("<H", _COMMENT)
_END, _END_BYTES = b"PK\x05\x06", 22  # of an archive without a comment


def seal(path: str) -> None:
    """Write its digest into a file that ``torch.save`` has written."""
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
