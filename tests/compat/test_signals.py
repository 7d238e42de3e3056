"""A signal ends a training after its update, on every rank, and what follows is as if none had come."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from commands import run_fairseq_train, train_here, weights

from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.compat import signals
from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingTask

OPTIONS = ("--dropout", "0.1", "--max-update", "14", "--log-interval", "100", "--disable-validation")


@pytest.fixture(scope="module")
def whole(small_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train_here(small_data, folder, *OPTIONS) == 0
    return folder


def signalled(monkeypatch, *sent: int, at: int) -> None:
    """Has this process sent signals in the middle of an update."""
    step = MaskedPretrainingTask.optimizer_step

    def send(self, optimizer, model, update_num):
        step(self, optimizer, model, update_num)
        if update_num == at - 1:
            for number in sent:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(MaskedPretrainingTask, "optimizer_step", send)


def assert_same(left: Path, right: Path) -> None:
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_update_is_finished_and_saved(small_data, whole, tmp_path, monkeypatch, caplog, capfd):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert signals._hear not in before, "after another training"
    with monkeypatch.context() as patch:
        signalled(patch, signal.SIGTERM, signal.SIGTERM, at=5)  # twice, as by a launcher and Slurm
        assert train_here(small_data, tmp_path, *OPTIONS) == 143
    assert read_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == 5
    (told,) = [message for message in caplog.messages if "stopped by SIG" in message]
    assert "all 5 updates" in told and str(tmp_path / "checkpoint_last.pt") in told
    assert capfd.readouterr().err.count("another signal ends at once") == 1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_last.pt", "train.log"]
    assert train_here(small_data, tmp_path, *OPTIONS) == 0
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_no_save_says_that_nothing_is_kept(sent, status, small_data, tmp_path, monkeypatch, caplog):
    signalled(monkeypatch, sent, at=2)
    monkeypatch.setattr(signals, "check_room", None)  # nobody asks
    assert train_here(small_data, tmp_path, *OPTIONS, "--no-save") == status
    assert "2 updates were made and not saved" in caplog.text


def test_before_the_first_update_it_ends_at_once(small_data, tmp_path, monkeypatch):
    def load(self, *args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")

    monkeypatch.setattr(MaskedPretrainingTask, "load_dataset", load)
    assert train_here(small_data, tmp_path, *OPTIONS) == 143
    assert not list(tmp_path.glob("*.pt"))


def test_another_signal_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(signals, "_end_at_once", ended.append)
    monkeypatch.setattr(signals, "_told", signals._Told(training=True))
    for seconds, expected in ((100.0, []), (100.5, []), (110.0, [signal.SIGTERM])):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: seconds)
        signals._hear(signal.SIGTERM, None)
        assert ended == expected
    monkeypatch.setattr(signals, "_told", signals._Told(training=True, process=-1))  # as in a data worker
    signals._hear(signal.SIGTERM, None)
    assert signals._told.heard == 0


def test_ranks_stop_at_the_same_update_and_go_on(small_data, tmp_path):
    """A signal to one of them, then one to the process that has started them."""
    options = (*OPTIONS, "--distributed-world-size", "2", "--batch-size", "2", "--save-interval-updates", "1")
    options = (*options, "--keep-interval-updates", "1", "--max-update", "60")
    updates = [0]
    for whom in ("one rank", "the parent"):
        ranks: list[int] = []

        def send(pid: int, whom: str = whom, ranks: list[int] = ranks) -> None:
            def watch() -> None:
                while not list(tmp_path.glob(f"checkpoint_*_{updates[-1] + 2}.pt")) and Path(f"/proc/{pid}").exists():
                    time.sleep(0.001)
                ranks.extend(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
                os.kill(pid if whom == "the parent" else ranks[1], signal.SIGUSR1)

            threading.Thread(target=watch, daemon=True).start()

        finished = run_fairseq_train(small_data, tmp_path, *options, started=send)
        assert finished.returncode == 138, finished.stderr[-2000:]
        assert (finished.stdout + finished.stderr).count("stopped by SIGUSR1") == 1
        assert len(ranks) == 2 and not any(Path(f"/proc/{rank}").exists() for rank in ranks)
        updates.append(read_checkpoint(tmp_path / "checkpoint_last.pt").num_updates)
    assert updates == sorted(set(updates)) and updates[-1] < 60
