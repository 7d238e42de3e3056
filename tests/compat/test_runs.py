"""fairseq's reading thread ends before the interpreter and before the next run of the process."""

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from commands import assert_ok, run_command
from fairseq.data.iterators import BufferedIterator
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from fairseq_masking.compat import runs
from fairseq_masking.compat.runs import give_jobs_folders_of_their_own, reset_process_state, stop_reading_ahead

# The thread is nearly always inside of a sort when the program ends: without the fix it ended with SIGABRT.
LEAVES_BATCHES_UNREAD = """
import fairseq_masking, torch
from fairseq.data.iterators import BufferedIterator
class Batches:
    def __len__(self): return 1000
    def __iter__(self): return (torch.randn(200_000).sort()[0].sum() for _ in range(1000))
next(BufferedIterator(1000, Batches()))
"""


class Batches:
    """Counts what was read; waits before the batch ``last`` until ``go_on`` is set."""

    def __init__(self, last: int | None = None) -> None:
        self.read = 0
        self.last = last
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __len__(self) -> int:
        return 1000

    def __iter__(self) -> Iterator[int]:
        for number in range(1000):
            if number == self.last:
                self.reached.set()
                self.go_on.wait(30)
            self.read += 1
            yield number


def test_program_that_leaves_batches_unread_ends_well() -> None:
    assert_ok(run_command([sys.executable, "-c", LEAVES_BATCHES_UNREAD]))


def test_next_run_of_the_process_ends_a_reader_whose_queue_is_full() -> None:
    batches = Batches()
    buffered = BufferedIterator(2, batches)
    assert next(buffered) == 0
    assert buffered._consumer.is_alive()
    reset_process_state()
    assert not buffered._consumer.is_alive()
    assert batches.read < 20


def test_reader_that_waits_for_its_batch_is_left_alone() -> None:
    batches = Batches(last=1)
    buffered = BufferedIterator(2, batches)
    assert next(buffered) == 0
    assert batches.reached.wait(30)
    stop_reading_ahead(timeout=0.1)
    assert buffered._consumer.is_alive()
    batches.go_on.set()
    buffered._consumer.join(30)
    assert not buffered._consumer.is_alive()
    assert batches.read == 2


def test_jobs_of_a_multirun_do_not_share_a_folder(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(runs, "_jobs", {})
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)

    def folders(number: int, save_dir: str, mode: RunMode = RunMode.MULTIRUN) -> list[str]:
        job = SimpleNamespace(mode=mode, job=SimpleNamespace(num=number))
        monkeypatch.setattr(HydraConfig, "get", lambda: job)
        common = {"tensorboard_logdir": f"{save_dir}/tensorboard", "log_file": None}
        cfg = OmegaConf.create({"checkpoint": {"save_dir": save_dir}, "common": common})
        give_jobs_folders_of_their_own(cfg)
        return [cfg.checkpoint.save_dir, cfg.common.tensorboard_logdir]

    assert folders(0, "save") == ["save", "save/tensorboard"]
    assert folders(1, "other") == ["other", "other/tensorboard"]
    assert not caplog.records
    assert folders(2, "save") == ["save/job2", "save/job2/tensorboard"]
    assert "save has the checkpoints of another job" in caplog.text
    assert folders(2, "save", RunMode.RUN) == ["save", "save/tensorboard"]
