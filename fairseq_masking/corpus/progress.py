"""What a preparation says while it runs: a line a step, and a bar where somebody is watching."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["Reporter"]


class Reporter:
    """Prints steps to standard output and bars to standard error.

    Args:
        bars: True draws bars, False none, None where standard error is a terminal.
    """

    def __init__(self, bars: bool | None = None) -> None:
        self._disable = None if bars is None else not bars
        self._start = time.monotonic()

    def say(self, message: str) -> None:
        """Prints one line with the seconds since the start."""
        print(f"[{time.monotonic() - self._start:6.1f} s] {message}", flush=True)

    @contextmanager
    def bar(self, title: str, num_bytes: int) -> Iterator[Callable[[int], object]]:
        """Yields a function that takes the number of bytes done since its last call."""
        with tqdm(
            total=num_bytes, desc=title, unit="B", unit_scale=True, leave=False, disable=self._disable
        ) as bar:
            yield bar.update
