"""What the commands share: one-line errors, and fairseq's own lines kept out of their output."""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["OneLineParser", "fail", "warnings_only"]


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Prints the line and exits with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")


def fail(parser: argparse.ArgumentParser, message: str, status: int) -> int:
    """Prints the message as one line and returns ``status``."""
    print(f"{parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


@contextmanager
def warnings_only() -> Iterator[None]:
    """Lets only warnings through: fairseq tells the root logger everything, which would drown a table."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(level)
