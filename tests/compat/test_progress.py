"""A training says what it is before anything else, then how far it is; the rest of the start is in its log."""

import inspect
import io
import json
import logging
import sys
from pathlib import Path

import pytest
from commands import assert_ok, run_fairseq_train, train_here, weights
from fairseq.dataclass.configs import FairseqConfig
from fairseq.logging import progress_bar
from omegaconf import OmegaConf

from fairseq_masking.compat import progress
from fairseq_masking.figures.training_log import read_training_log


def test_a_run_says_what_it_is_and_its_log_has_the_rest(small_data: Path, tmp_path: Path) -> None:
    options = ("--max-update", 12, "--mask-splits", 2, "--criterion", "fully_explored_mlm", "--bf16")
    finished = run_fairseq_train(small_data, tmp_path, *options, "--log-interval", 4, server="plain")
    assert_ok(finished)
    lines = finished.stdout.splitlines()
    assert lines[0].endswith("| fairseq_masking | this run")
    told = dict(line.split(maxsplit=1) for line in lines[1:10])
    size = sum(value.numel() for value in weights(tmp_path).values())
    assert told["method"] == f"fully_explored_mlm with mlm_tiny, {size:,} parameters"
    assert told["masks"] == "15% of a sequence, subwords, 2 masks of a sequence that never overlap"
    assert told["update"].startswith("4 rows, up to 128 tokens") and told["length"].startswith("12 updates, 0.1")
    assert told["device"] == "CPU, bf16" and told["data"] == str(small_data)
    assert told["time"] == "told after update 2, better after 11"
    assert finished.stdout.count("time: about 0:00:") == 2 and finished.stdout.count("to go") == 2
    assert "dictionary: 204 symbols" in lines[10]  # what this package logged meanwhile
    noise = ("'_name': 'masked_pretraining'", "TransformerEncoder(", "pin_memory", "autocast", "hydra/")
    log = (tmp_path / "train.log").read_text()
    assert not any(text in finished.stdout + finished.stderr for text in noise) and all(
        text in log for text in noise[:2]
    )
    logged = read_training_log(tmp_path / "train.log")
    assert list(logged.train) == [4, 8, 12] and list(logged.valid) == [12]
    again = run_fairseq_train(small_data, tmp_path, *options)
    assert "nothing to do" in again.stdout and "Loaded checkpoint" in again.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_log_without_room_is_said_once(small_data, tmp_path, caplog, capsys):
    (tmp_path / "train.log").symlink_to("/dev/full")
    assert train_here(small_data, tmp_path, "--no-save", "--disable-validation", "--max-update", "2") == 0
    said = [message for message in caplog.messages if "lines are missing" in message]
    assert said == [f"{tmp_path}/train.log cannot be written (No space left on device): lines are missing there"]
    assert "Traceback" not in capsys.readouterr().err


def test_one_line_on_a_terminal_and_json_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.checkpoint.save_dir = str(tmp_path)
    run = progress._Run(cfg, begun=True, done=2, total=6, file=logging.FileHandler(tmp_path / "train.log"))
    monkeypatch.setattr(progress, "_run", run)
    bar = progress._bar(inspect.unwrap(progress_bar.progress_bar), range(4), epoch=1, default_log_format="tqdm")
    for update, _ in enumerate(bar, 3):
        bar.log({"loss": 7.25, "num_updates": update}, tag="train_inner", step=update)
    last = terminal.getvalue().split("\r")[-1]
    assert "6/6" in last and "loss=7.25" in last and "00:0" in last
    lines = [json.loads(line) for line in (tmp_path / "train.log").read_text().splitlines()]
    assert [line["num_updates"] for line in lines] == ["3", "4", "5", "6"]


def test_each_line_stands_in_the_log_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_run", None)
    monkeypatch.setattr(progress_bar.logger, "handlers", [])
    for epoch in (1, 2):
        progress._bar(inspect.unwrap(progress_bar.progress_bar), range(1), log_file=str(tmp_path / "log"), epoch=epoch)
    assert len(progress_bar.logger.handlers) == 1


def test_debug_lines_of_all_packages_are_off_after_the_import() -> None:
    """fairseq's import turns them on for the root logger: matplotlib's fonts would follow."""
    assert logging.root.level != logging.DEBUG
