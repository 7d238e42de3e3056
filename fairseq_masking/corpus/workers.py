"""Worker processes that end with their parent, however that ends, and whose death is noticed."""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from typing import Any, TypeVar

from fairseq_masking.errors import UserError

__all__ = ["map_in_batches", "map_in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_WATCH_SECONDS = 0.2
_function: Callable[[Any], Any]


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """Yields function(item) for each item, in order; in this process if ``workers`` is 1 or less.

    At most 2 * workers items are under way, so ``items`` may be a stream; ``function`` reaches each worker once.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    executor = ProcessPoolExecutor(
        workers,
        # fork: importing torch and fairseq anew would take each worker seconds.
        mp_context=multiprocessing.get_context("fork"),
        initializer=_start_worker,
        initargs=(function, os.getpid()),
    )
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(_call, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} worker processes was killed, perhaps for lack of memory; try fewer --workers"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def map_in_batches(
    function: Callable[[Item], Result], items: Sequence[Item], *, size: int, workers: int
) -> Iterator[Result]:
    """The same with ``size`` items at once, where each of them is little work."""
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    each = map_in_order(lambda batch: list(map(function, batch)), batches, workers=min(workers, len(batches)))
    return chain.from_iterable(each)


def _start_worker(function: Callable[[Any], Any], parent: int) -> None:
    global _function
    _function = function
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """An orphan would wait for ever, and hold the lock on the temporary folder."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)
