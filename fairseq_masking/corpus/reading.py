"""Reads text files, plain or compressed (.xz, .gz, .bz2), as streams of lines; a defect is a UserError."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from fairseq_masking.errors import UserError
from fairseq_masking.files import open_binary

__all__ = ["read_lines"]

# Suffix -> how such a file begins, and what reads it.
_COMPRESSIONS: dict[str, tuple[bytes, Callable[[BinaryIO], object]]] = {
    ".xz": (b"\xfd7zXZ\x00", lzma.LZMAFile),
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.BZ2File),
}
_BOM = b"\xef\xbb\xbf"
# fairseq reads its text in universal-newline mode, where a lone \r ends a line, and str.splitlines splits at
# the others; none of them is a line end here.
_LINE_BREAKS = str.maketrans(dict.fromkeys("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", " "))


def read_lines(path: str | Path, progress: Callable[[int], object] | None = None) -> Iterator[str]:
    r"""Yields the lines of a UTF-8 text file, stripped; only "\n" ends a line.

    Args:
        path: plain, .xz, .gz or .bz2 file.
        progress: called with the number of bytes read from disk since the last call.

    Raises:
        UserError: the file is missing, empty, cut short, corrupt, not UTF-8, or holds no text at all.
    """
    holds_text = False
    with open_binary(path) as raw_file, _decompress(raw_file, path) as file:
        number, offset, reported = 0, 0, 0
        try:
            for raw in file:
                number += 1
                line = _decode(raw, path, number, offset)
                offset += len(raw)
                holds_text = holds_text or bool(line)
                if progress is not None and number % 1024 == 0:
                    position = raw_file.tell()
                    progress(position - reported)
                    reported = position
                yield line
        except EOFError as error:
            raise UserError(
                f"{path} is cut short: its compressed data ends after {offset} bytes of text; fetch it again"
            ) from error
        except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, OSError) as error:
            raise UserError(
                f"{path} cannot be read after {offset} bytes of text ({error}); fetch or compress it again"
            ) from error
        if progress is not None:
            progress(raw_file.tell() - reported)
    if not holds_text:
        raise UserError(f"{path} holds no text; remove it from the inputs")


def _decompress(file: BinaryIO, path: str | Path) -> AbstractContextManager[BinaryIO]:
    """The first bytes, not the name, tell the compression."""
    head = file.read(6)
    file.seek(0)
    for magic, opened in _COMPRESSIONS.values():
        if head.startswith(magic):
            return cast(AbstractContextManager[BinaryIO], opened(file))
    suffix = Path(path).suffix
    if suffix in _COMPRESSIONS:
        raise UserError(f"{path} is named {suffix} but is no {suffix} file; rename it or compress it again")
    return nullcontext(file)


def _decode(raw: bytes, path: str | Path, number: int, offset: int) -> str:
    if number == 1 and raw.startswith(_BOM):
        raw = raw[len(_BOM) :]
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {number} (byte {offset + error.start}) is not UTF-8 "
            f"(0x{error.object[error.start]:02x}); convert it, e.g. iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in line:
        raise UserError(
            f"{path}: line {number} (byte {offset + raw.index(0)}) holds a NUL byte: UTF-16 or binary data, "
            "not UTF-8 text; convert it, e.g. iconv -f utf-16 -t utf-8"
        )
    return line.translate(_LINE_BREAKS).strip()
