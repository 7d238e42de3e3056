"""The commands from end to end: train, validate, resume, die and go on, on one rank or two."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import PACKAGE, assert_ok, kill_when, run_fairseq_train, weights

DROPOUT = ("--dropout", "0.1", "--attention-dropout", "0.1")
SPLITS = ("--criterion", "fully_explored_mlm", "--mask-splits", "4", "--batch-size", "8")


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="module")
def uninterrupted(small_data, tmp_path_factory) -> Path:
    """Twelve updates without a stop, validating at six and twelve."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finished = run_fairseq_train(
        small_data, folder, *DROPOUT, *SPLITS, "--max-update", "12", "--save-interval-updates", "6",
        "--log-format", "json", "--log-file", folder / "log.jsonl", "--tensorboard-logdir", folder / "tb",
    )  # fmt: skip
    assert_ok(finished)
    (folder / "stdout").write_text(finished.stdout)
    return folder


def test_metrics_are_in_the_log_and_in_tensorboard(uninterrupted):
    stdout = (uninterrupted / "stdout").read_text()
    lines = [json.loads(line) for line in re.findall(r"\| (?:train_inner|valid) \| (\{.*)", stdout)]
    training = [line for line in lines if "loss" in line]
    validation = [line for line in lines if "valid_loss" in line]
    expected = {"loss", "ppl", "accuracy", "loss_mask", "ppl_random", "var_within", "var_between"}
    assert expected <= training[-1].keys()
    assert {"valid_loss", "valid_ppl", "valid_accuracy", "valid_ppl_mask"} <= validation[-1].keys()
    assert float(training[-1]["ppl"]) == pytest.approx(2 ** float(training[-1]["loss"]), rel=1e-2)
    events = b"".join(path.read_bytes() for path in (uninterrupted / "tb").rglob("events*"))
    for name in (b"accuracy", b"ppl_mask", b"var_within"):
        assert name in events


def test_validate_gives_the_logged_loss_again(uninterrupted, small_data, run):
    logged = re.findall(r'"valid_loss": "([\d.]+)"', (uninterrupted / "stdout").read_text())
    finished = run(
        ["fairseq-validate", small_data, "--user-dir", PACKAGE,
         "--task", "masked_pretraining", "--path", uninterrupted / "checkpoint_last.pt",
         "--tokens-per-sample", "32", "--batch-size", "8", "--cpu", "--log-format", "json"]
    )  # fmt: skip
    assert_ok(finished)
    again = re.findall(r'"valid_loss": "([\d.]+)"', finished.stdout)
    assert again == logged[-1:]


def test_a_finished_run_stays_as_it_is(uninterrupted, small_data):
    before = weights(uninterrupted)
    finished = run_fairseq_train(small_data, uninterrupted, *DROPOUT, *SPLITS, "--max-update", "12")
    assert_ok(finished)
    assert "nothing to do" in finished.stdout
    assert_same(weights(uninterrupted), before)


# Forward and backward are traced and partitioned as for inductor, and run without a C++ compiler's minute.
TRACED = """
import functools
import torch
import fairseq_masking
torch.compile = functools.partial(torch.compile, backend="aot_eager")
"""


def test_compiled_ranks_with_checkpointed_layers_train_as_one_uncompiled(small_data, tmp_path):
    """Inductor compiles a program with checkpointed layers in tests/modules/test_compilation.py."""
    plugin = tmp_path / "traced_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(TRACED)
    options = (*SPLITS, "--max-update", "3", "--encoder-layers", "1", "--disable-validation")
    assert_ok(run_fairseq_train(small_data, tmp_path / "one", *options, "--update-freq", "2"))
    compiled = ("--compile", "full", "--checkpoint-activations", "--ddp-backend", "pytorch_ddp")
    ranks = (*compiled, "--distributed-world-size", "2")
    two = run_fairseq_train(small_data, tmp_path / "two", *options, *ranks, user_dir=plugin, server="plugin")
    assert_ok(two)
    assert "torch.compile: full compiled in" in two.stdout + two.stderr
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(other[key], one[key], rtol=1e-4, atol=1e-5)


def test_killed_again_and_again_it_ends_with_the_same_weights(small_data, tmp_path):
    """kill -9 while a checkpoint is being written, and at odd moments; each start takes other workers."""
    options = (*DROPOUT, *SPLITS, "--max-update", "24", "--save-interval-updates", "1", "--keep-interval-updates", "2")
    options = (*options, "--disable-validation", "--log-interval", "100")
    assert_ok(run_fairseq_train(small_data, tmp_path / "whole", *options))
    folder = tmp_path / "killed"
    deaths = []
    for attempt, moment in enumerate(["writing", 9, "writing"]):
        workers = ("--num-workers", str(attempt % 3))
        kill = kill_when(reaches(moment, folder))
        deaths.append(run_fairseq_train(small_data, folder, *options, *workers, started=kill).returncode)
    assert deaths == [-signal.SIGKILL] * 3
    assert_ok(run_fairseq_train(small_data, folder, *options, "--num-workers", "1"))
    assert_same(weights(folder), weights(tmp_path / "whole"))
    assert not [path for path in folder.iterdir() if path.suffix not in (".pt", ".log")], "half-written"


def reaches(moment: str | int, folder: Path) -> Callable[[], bool]:
    """Whether a run is in the middle of writing a second checkpoint, or has written so many."""
    seen = [newest(folder)]

    def reached() -> bool:
        if newest(folder) != seen[-1]:
            seen.append(newest(folder))
        if moment == "writing":
            return len(seen) > 1 and any(path.suffix == ".tmp" for path in folder.glob("*"))
        return len(seen) > moment

    return reached


def newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.glob("checkpoint_last.pt")), default=0.0)
