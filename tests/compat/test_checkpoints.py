"""Checkpoints load safely, broken ones end in one line, copies are never cut short."""

import argparse
import errno
import os
import pickle
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, run_fairseq_train, train_here
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

import fairseq_masking  # noqa: F401 - mends fairseq
from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.compat import checkpoints
from fairseq_masking.errors import UserError


class RunsACommand:
    """Pickled, it is a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


class Evaluates(RunsACommand):
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"__import__('os').system({self.command!r})",)


def state(**more: object) -> dict[str, object]:
    """What fairseq expects in a checkpoint, as little as possible."""
    history = [{"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 2}]
    extra = {"train_iterator": {"epoch": 1}}
    return {"args": None, "model": {}, "optimizer_history": history, "extra_state": extra, **more}


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(arch="roberta_base", nested=argparse.Namespace(seed=1)),
        np.float64(0.5),
        {"plain": [1, 2.0, "three", None, (4,)]},
    ],
    ids=["Namespace", "float64", "plain"],
)
def test_what_fairseq_stores_loads(tmp_path: Path, value: object) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(state(stored=value), path)
    assert checkpoint_utils.load_checkpoint_to_cpu(str(path))["stored"] == value


def test_scalar_as_numpy_1_wrote_it_loads(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(state(stored=np.float64(0.5)), path, _use_new_zipfile_serialization=False)
    old_name = b"numpy.core.multiarray\nscalar"
    content = path.read_bytes()
    assert b"numpy._core.multiarray\nscalar" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray\nscalar", old_name))
    assert checkpoint_utils.load_checkpoint_to_cpu(str(path))["stored"] == 0.5


@pytest.mark.parametrize("force_unsafe", [False, True], ids=["default", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("nested", [False, True], ids=["top", "in a Namespace"])
@pytest.mark.parametrize(
    ("kind", "culprit"), [(RunsACommand, "system"), (Evaluates, "eval")], ids=["os.system", "eval"]
)
def test_checkpoint_that_runs_code_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[RunsACommand],
    culprit: str,
    nested: bool,
    force_unsafe: bool,
) -> None:
    marker = tmp_path / "executed"
    if force_unsafe:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    payload = kind(f"touch {marker}")
    path = tmp_path / "checkpoint.pt"
    torch.save(state(args=argparse.Namespace(x=payload) if nested else payload), path)
    with pytest.raises(UserError, match=rf"refused.*\b{culprit}\b") as caught:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in os.environ) is force_unsafe


def test_broken_files_end_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(state(model={"weight": torch.randn(100, 100)}), whole)
    content = whole.read_bytes()
    broken = {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "garbage": np.random.default_rng(0).bytes(1000),
        "text": b"not a checkpoint\n" * 10,
        "pickle_cut": pickle.dumps({"model": [1, 2, 3]})[:-4],
    }
    for name, content in broken.items():
        path = tmp_path / f"{name}.pt"
        path.write_bytes(content)
        with pytest.raises(UserError, match="cut short or no PyTorch file") as caught:
            checkpoint_utils.load_checkpoint_to_cpu(str(path))
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("content", [{"weight": torch.ones(2)}, [1, 2]], ids=["dict", "list"])
def test_foreign_torch_file_is_named_as_such(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match="not a fairseq checkpoint"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_one_flipped_byte_is_found_wherever_it_is(tmp_path, caplog):
    path, rng = tmp_path / "checkpoint.pt", np.random.default_rng(0)
    checkpoint_utils.torch_persistent_save(state(model={"weight": torch.randn(64, 64)}), str(path))
    whole = path.read_bytes()
    for mmap in (False, True):
        assert torch.load(path, mmap=mmap, weights_only=True)["model"]["weight"].shape == (64, 64)
    places = [*rng.integers(len(whole), size=200), *range(len(whole) - 100, len(whole))]
    for number, place in enumerate(places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        os.utime(path, ns=(number, number))  # two writes within a tick of the clock
        for load in (checkpoint_utils.load_checkpoint_to_cpu, read_checkpoint):
            with pytest.raises(UserError, match=r"damaged|no PyTorch file"):
                load(str(path))
    torch.save(state(), path)  # of before
    with caplog.at_level("INFO"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert "has no digest" in caplog.text


def test_a_file_system_that_comes_back_is_waited_for(tmp_path, monkeypatch, caplog):
    waited, save = [], torch.save

    def fails(obj, file):
        if len(waited) < 2:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        save(obj, file)

    monkeypatch.setattr(torch, "save", fails)
    monkeypatch.setattr(time, "sleep", waited.append)
    checkpoint_utils.torch_persistent_save(state(), str(tmp_path / "checkpoint_last.pt"))
    assert waited == [5.0, 30.0] and caplog.text.count("Stale file handle") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_last.pt"]
    monkeypatch.setattr(time, "sleep", lambda _: waited.clear())
    waited.clear()
    with pytest.raises(UserError, match=r"Stale file handle.*the last whole one is .*checkpoint_last.pt"):
        checkpoint_utils.torch_persistent_save(state(), str(tmp_path / "checkpoint_2.pt"))


@pytest.mark.parametrize(
    ("owner", "name", "passes", "newest"),
    [
        (torch, "save", 0, "1_1|last"),
        (checkpoints, "_seal", 0, "1_1|last"),
        (os, "replace", 0, "1_1|last"),
        (shutil, "copyfile", 0, "1_2"),
        (os, "replace", 1, "1_2"),
    ],
)
def test_a_disk_that_is_full_at_any_step_of_a_save_keeps_the_last_checkpoint(
    tmp_path, monkeypatch, owner, name, passes, newest
):
    """In fairseq's order; tests/campaign/full.py fills a real one, at every byte."""
    before, after, last = (str(tmp_path / f"checkpoint_{name}.pt") for name in ("1_1", "1_2", "last"))
    step, left = getattr(owner, name), passes

    def save(path: str) -> None:
        checkpoint_utils.torch_persistent_save(state(stored=path), path)
        PathManager.copy(path, last, overwrite=True)

    def fails(*args: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            return step(*args)
        Path({"save": f"{after}.tmp", "copyfile": args[-1]}.get(name, args[0])).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(before)
    for path in (before, last):
        os.utime(path, (0, 0))  # two writes within a tick of the clock
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails)
        told = rf"cannot be written \(No space left on device\): the last whole one is \S*_({newest})\.pt; make room"
        with pytest.raises(UserError, match=told):
            save(after)
    assert checkpoint_utils.load_checkpoint_to_cpu(last)["stored"] == before
    assert not list(tmp_path.glob("*.tmp"))
    save(after)
    assert checkpoint_utils.load_checkpoint_to_cpu(last)["stored"] == after


def test_what_is_written_elsewhere_or_later_is_fairseqs_own(tmp_path, monkeypatch):
    path, passed_on = str(tmp_path / "checkpoint.pt"), []

    def original(*args, async_write):
        passed_on.append(async_write)

    checkpoints._save_whole(original, {}, path, async_write=True)
    monkeypatch.setattr(PathManager, "supports_rename", lambda path: False)
    checkpoints._save_whole(original, {}, path)
    assert passed_on == [True, False] and not list(tmp_path.iterdir())


def test_room_for_a_checkpoint_is_looked_for_before_training(small_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert train_here(small_data, tmp_path / "save") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--save-dir {tmp_path / 'save'} has room for 0.001 GB, a checkpoint takes about 0.00" in line
    assert not list(tmp_path.rglob("*.pt"))


def test_missing_file_stays_fairseqs_business(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "none.pt"))


def test_interrupted_copy_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "checkpoint1.pt", tmp_path / "checkpoint_last.pt"
    source.write_bytes(b"new" * 1000)
    target.write_bytes(b"old")

    def killed_half_way(src: str, dst: str) -> None:
        Path(dst).write_bytes(Path(src).read_bytes()[:10])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", killed_half_way)
        with pytest.raises(KeyboardInterrupt):
            PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == b"old"
    assert PathManager.copy(str(source), str(target), overwrite=True)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint1.pt", "checkpoint_last.pt"]


def test_next_start_clears_what_a_kill_left(tmp_path: Path) -> None:
    for name in ("checkpoint_1_20.pt.tmp", "checkpoint_last.pt", "notes.tmp"):
        (tmp_path / name).write_bytes(b"x")
    checkpoint_utils.verify_checkpoint_directory(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_last.pt", "notes.tmp"]


def test_training_refuses_a_malicious_checkpoint(small_data: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    save_dir = tmp_path / "save"
    save_dir.mkdir()
    torch.save(state(args=RunsACommand(f"touch {marker}")), save_dir / "checkpoint_last.pt")
    finished = run_fairseq_train(small_data, save_dir, environment={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"})
    assert_one_line_error(finished, "checkpoint_last.pt", "refused", "system")
    assert not marker.exists()
    assert [path.name for path in save_dir.iterdir()] == ["checkpoint_last.pt"]
