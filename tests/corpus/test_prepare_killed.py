"""kill -9 at any moment leaves nothing that looks finished, and the next run succeeds."""

import multiprocessing
import os
import random
import resource
import time
from contextlib import suppress
from pathlib import Path

import pytest
from corpora import make_lines

from fairseq_masking.cli.main import main
from fairseq_masking.corpus import binarization, workspace
from fairseq_masking.corpus.manifest import read_manifest
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers import SentencePieceTokenizer


def _options(tmp_path: Path, out: str = "data") -> list[str]:
    path = tmp_path / "corpus.txt"
    if not path.exists():
        path.write_text("\n".join(make_lines(6000)))
    places = ["--train", str(path), "--out", str(tmp_path / out)]
    return ["prepare", "corpus", *places, "--vocab-size", "130", "--workers", "2"]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _work_of(pid: int) -> float:
    """Seconds of CPU of a process and its children: how far it is, however busy the machine."""
    with suppress(FileNotFoundError):  # it has ended
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") + sum(map(_work_of, map(int, children)))
    return 0.0


def test_kill_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binarization, "_CHUNK_BYTES", 20_000)
    whole = _options(tmp_path, "whole")
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    assert main(whole) == 0
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    work = sum(used.ru_utime + used.ru_stime for used in after) - sum(used.ru_utime + used.ru_stime for used in before)
    rng = random.Random(0)
    killed_at_work = 0
    for trial in range(8):
        child = multiprocessing.get_context("fork").Process(target=main, args=(_options(tmp_path),))
        child.start()
        moment = work * (trial + rng.random()) / 8
        while child.is_alive() and _work_of(child.pid) < moment:
            time.sleep(0.002)
        child.kill()
        child.join()
        finished = (tmp_path / "data").exists()
        assert not finished or read_manifest(tmp_path / "data").missing_outputs(tmp_path / "data") == []
        killed_at_work += (tmp_path / ".data.preparing").exists() and not finished
    assert killed_at_work >= 3
    assert main(_options(tmp_path)) == 0
    assert _files(tmp_path / "data") == _files(tmp_path / "whole")
    assert not list(tmp_path.glob(".data*"))


def test_what_a_killed_run_left_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".data.preparing" / "text").mkdir(parents=True)
    (tmp_path / ".data.preparing" / "train.bin.part0.bin").write_text("left over")
    assert main(_options(tmp_path)) == 0
    assert set(_files(tmp_path / "data")) == {*read_manifest(tmp_path / "data").outputs, "manifest.json"}
    assert not any("part" in name for name in _files(tmp_path / "data"))


def test_a_kill_while_the_old_one_is_replaced(tmp_path: Path) -> None:
    assert main(_options(tmp_path)) == 0
    before = _files(tmp_path / "data")
    # The moment between the two renames: the old folder aside, the new one not yet in its place.
    (tmp_path / "data").rename(tmp_path / ".data.replaced")
    workspace.check_output(tmp_path / "data")
    assert _files(tmp_path / "data") == before
    assert not (tmp_path / ".data.replaced").exists()
    (tmp_path / ".data.replaced").mkdir()  # a kill after both renames
    assert main(_options(tmp_path)) == 0
    assert not (tmp_path / ".data.replaced").exists() and _files(tmp_path / "data") == before


def test_two_runs_at_once(tmp_path: Path) -> None:
    with workspace.workspace(tmp_path / "data") as folder:
        (folder / "mine").touch()
        with (
            pytest.raises(UserError, match="is being prepared by another process"),
            workspace.workspace(tmp_path / "data"),
        ):
            raise AssertionError("two runs in one folder")
        assert (folder / "mine").exists()
    assert (tmp_path / "data" / "mine").exists() and not (tmp_path / "data" / ".lock").exists()


def test_an_interrupt_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SentencePieceTokenizer, "encode_lines", interrupt)
    assert main([*_options(tmp_path), "--workers", "1"]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]
