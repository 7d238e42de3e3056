"""A file appears whole or not at all."""

import errno
import fcntl
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.files import held, whole_file


def test_it_appears_whole_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with whole_file(path) as partial:
        partial.write_text("half", encoding="utf-8")
        assert not path.exists()
        partial.write_text("all of it", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "all of it"
    assert os.listdir(path.parent) == ["table.csv"]


def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(OSError, match="No space") as raised, whole_file(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path)
    assert path.read_text(encoding="utf-8") == "before"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_link_stays_one(tmp_path):
    target, link = tmp_path / "results" / "table.csv", tmp_path / "table.csv"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("first", "second"):
        with whole_file(link) as partial:
            partial.write_text(text, encoding="utf-8")
        assert link.is_symlink() and target.read_text(encoding="utf-8") == text


def test_a_pipe_is_written_to_itself(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(tmp_path / "pipe") as given:
        given.write_text("numbers", encoding="utf-8")
    assert os.read(reader, 100) == b"numbers"
    os.close(reader)
    with whole_file(Path(os.devnull)) as given:
        assert given == Path(os.devnull)


def test_a_folder_in_its_place_is_the_one_named(tmp_path):
    with pytest.raises(IsADirectoryError) as raised, whole_file(tmp_path) as given, given.open("w"):
        pass
    assert raised.value.filename == str(tmp_path)


def test_a_lock_names_its_holder_and_waits_for_what_a_killed_one_has_left(tmp_path):
    lock = tmp_path / "lock"
    with held(lock, "it is being tried", remove=True):
        named = rf"it is being tried by another process \(process {os.getpid()} on {socket.gethostname()}\)"
        with pytest.raises(UserError, match=named), held(lock, "it is being tried"):
            raise AssertionError("two at once")
    assert not lock.exists()
    dead = subprocess.Popen(["true"])
    dead.wait()
    with lock.open("w") as worker:  # of a process that was killed
        fcntl.flock(worker, fcntl.LOCK_EX)
        worker.write(f"process {dead.pid} on {socket.gethostname()}")
        worker.flush()
        threading.Timer(0.2, lambda: fcntl.flock(worker, fcntl.LOCK_UN)).start()
        with held(lock):
            assert lock.read_text().startswith(f"process {os.getpid()} ")
