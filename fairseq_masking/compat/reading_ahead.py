"""The thread with which fairseq reads batches ahead (``--data-buffer-size``) ends when its run does."""

import atexit
import queue
import time
import weakref
from collections.abc import Callable
from typing import Any

from fairseq.data import iterators

from fairseq_masking.compat.patching import replace

__all__ = ["stop_reading_ahead", "stop_reading_ahead_at_exit"]

_readers: weakref.WeakSet[iterators.BackgroundConsumer] = weakref.WeakSet()


def stop_reading_ahead_at_exit() -> None:
    """Keeps a run that leaves batches unread (--max-update) from ending with SIGABRT, status 134.

    fairseq's reader is a daemon thread: where it is inside of a tensor operation when the interpreter is
    finalized, Python ends it with ``pthread_exit``, which C++ answers with ``std::terminate``. Only batches
    collated by the thread itself (--num-workers 0) meet it often.
    """
    replace(iterators.BackgroundConsumer, "start", _start)
    atexit.unregister(stop_reading_ahead)
    atexit.register(stop_reading_ahead)


def stop_reading_ahead(timeout: float = 10.0) -> None:
    """Ends every reader after the batch that it is at; what it has read is dropped.

    Args:
        timeout: Seconds for all of them together. A reader that waits longer for its batch is left alone.
    """
    end = time.monotonic() + timeout
    for reader in list(_readers):
        reader._max_len = 0
        while reader.is_alive() and time.monotonic() < end:
            _empty(reader._queue)  # which may be full, with the reader waiting for a place
            reader.join(0.01)
        _readers.discard(reader)


def _start(original: Callable[..., Any]) -> Callable[..., Any]:
    def start(self: iterators.BackgroundConsumer) -> None:
        _readers.add(self)
        original(self)

    return start


def _empty(items: queue.Queue[Any]) -> None:
    try:
        while True:
            items.get_nowait()
    except queue.Empty:
        return
