"""Every file of a prepared folder is read as it was written: its SHA-256 stands in the manifest.

It is compared when a process first reads the file. Of large files a user's cache remembers which were whole, by size
and time of change. Folders of before have no digests: they are read as they are, which is logged.
"""

import json
import logging
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file, write_json

__all__ = ["check_contents", "digests_of"]

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_REMEMBERED_BYTES = 1 << 26


def digests_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder, by its path there, but of manifests and what is hidden."""
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): hash_file(path)
        for name, path in paths.items()
        if name.name != _MANIFEST and not any(part.startswith(".") for part in name.parts) and path.stat().st_size
    }


def check_contents(path: str | Path) -> None:
    """Compare a file with the manifest of its folder, or of one of the two above it.

    Raises:
        UserError: it is not what was written.
    """
    path = Path(path)
    if path.is_file():
        stat = path.stat()
        _check(path.absolute(), stat.st_size, stat.st_mtime_ns)


@cache
def _check(path: Path, size: int, mtime: int) -> None:
    found = next((folder / _MANIFEST for folder in path.parents[:3] if (folder / _MANIFEST).is_file()), None)
    if found is None:
        return
    digests = _digests_in(found, found.stat().st_mtime_ns)
    wanted = digests.get(path.relative_to(found.parent).as_posix())
    if wanted is None:
        return
    known, stamp = _remembered(), [size, mtime, wanted]
    if known.get(str(path)) == stamp:
        return
    if hash_file(path) != wanted:
        raise UserError(
            f"{path} is not as it was written (its SHA-256 differs from {found.name}'s): get it, or make it, again"
        )
    if size >= _REMEMBERED_BYTES:
        with suppress(OSError):
            write_json(_memory(), {**known, str(path): stamp})


@cache
def _digests_in(manifest: Path, mtime: int) -> dict[str, str]:
    with suppress(OSError, ValueError, AttributeError):
        digests = json.loads(manifest.read_text(encoding="utf-8")).get("digests")
        if isinstance(digests, dict):
            return digests
    logger.info("%s is of before and tells no digests: its files are read as they are", manifest)
    return {}


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fairseq_masking" / "whole.json"


def _remembered() -> dict[str, Any]:
    with suppress(OSError, ValueError, RuntimeError):
        known = json.loads(_memory().read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    return {}
