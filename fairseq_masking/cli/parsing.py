"""What the commands share: one-line errors, and fairseq's own lines kept out of their output."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fairseq_masking.errors import UserError

__all__ = ["OneLineParser", "at_least", "fail", "name_and_log", "run_reporting"]


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Prints the line and exits with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")


def at_least(parser: argparse.ArgumentParser, args: argparse.Namespace, **bounds: int) -> None:
    """Refuses an option below its bound; one that was not given may be None or absent."""
    for name, bound in bounds.items():
        value = getattr(args, name, None)
        if value is not None and value < bound:
            parser.error(f"--{name.replace('_', '-')} {value} is below {bound}")


def fail(parser: argparse.ArgumentParser, message: str, status: int) -> int:
    """Prints the message as one line and returns ``status``."""
    print(f"{parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def name_and_log(run: str) -> tuple[str, Path]:
    """Reads NAME=LOG, where LOG may be the folder with its log: train.log, or Hydra's hydra_train.log.

    Raises:
        UserError: that is not its form.
    """
    name, equals, path = run.partition("=")
    if not equals or not name:
        raise UserError(f"--run {run!r}: give NAME=LOG")
    log = Path(path)
    if log.is_dir():
        logs = [log / "train.log", log / "hydra_train.log"]
        log = next((path for path in logs if path.exists()), logs[0])
    return name, log


def run_reporting(parser: argparse.ArgumentParser, work: Callable[[], None], *places: Path | None) -> int:
    """Runs ``work``; returns the exit status: 0, 1 for bad input, 130 interrupted. Errors are one line.

    Args:
        places: what it reads and writes: the first that was given is named where an error names no file.
    """
    try:
        with _warnings_only():
            work()
    except UserError as error:
        return fail(parser, str(error), 1)
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be written
        place = error.filename or next((place for place in places if place is not None), parser.prog)
        return fail(parser, f"{place}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return fail(parser, "interrupted", 130)
    return 0


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Lets only warnings through: fairseq tells the root logger everything, which would drown a table."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(level)
