"""A preparation at work: a result folder that appears whole or not at all, and what is said meanwhile.

Everything is written into the sibling ``.NAME.preparing``, which is renamed to NAME at the end. A kill leaves
only that sibling; the next run empties it. A lock file in it keeps two runs apart, and is held by worker
processes too, so that a run does not start while orphans of a killed one are still writing.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tqdm import tqdm

from fairseq_masking.corpus.manifest import MANIFEST_FILE
from fairseq_masking.errors import UserError
from fairseq_masking.files import held

__all__ = ["Reporter", "check_name", "check_output", "workspace"]

_LOCK_FILE = ".lock"


class Reporter:
    """Prints steps to standard output and bars to standard error: always, never (False), or on a terminal (None)."""

    def __init__(self, bars: bool | None = None) -> None:
        self._disable = None if bars is None else not bars
        self._start = time.monotonic()

    def say(self, message: str) -> None:
        """Prints one line with the seconds since the start."""
        print(f"[{time.monotonic() - self._start:6.1f} s] {message}", flush=True)

    def bar(self, title: str, num_bytes: int) -> tqdm:
        """Returns a bar, whose ``update`` takes the number of bytes done since its last call."""
        return tqdm(total=num_bytes, desc=title, unit="B", unit_scale=True, leave=False, disable=self._disable)


def check_output(output: Path) -> None:
    """Makes sure that ``output`` is ours to write; brings back what a kill between two renames put aside."""
    check_name(output)
    aside = _sibling(output, "replaced")
    if aside.exists() and output.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists():
        aside.rename(output)
    is_empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not is_empty and not (output / MANIFEST_FILE).is_file():
        raise UserError(
            f"--out {output} exists and was not made by fairseq-masking prepare (no {MANIFEST_FILE});"
            " give another folder or remove it"
        )


def check_name(folder: Path) -> None:
    """Makes sure that a folder's name does not mean several to fairseq."""
    if ":" in str(folder):
        raise UserError(f"{folder}: fairseq takes ':' for what separates shards; give a name without it")


@contextmanager
def workspace(output: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes ``output`` when the block ends well, and vanishes otherwise."""
    folder = _sibling(output, "preparing")
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / _LOCK_FILE, f"{output} is being prepared"))
        except OSError as error:
            raise UserError(f"--out {output} cannot be written: {error.strerror} ({error.filename})") from error
        try:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != _LOCK_FILE:
                    path.unlink()
            yield folder
            aside = _sibling(output, "replaced")
            shutil.rmtree(aside, ignore_errors=True)
            (folder / _LOCK_FILE).unlink()
            if output.exists():
                output.rename(aside)
            folder.rename(output)
            shutil.rmtree(aside, ignore_errors=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # before the lock is let go: then it may be another run's
            raise


def _sibling(output: Path, role: str) -> Path:
    output = output.absolute()
    return output.with_name(f".{output.name}.{role}")
