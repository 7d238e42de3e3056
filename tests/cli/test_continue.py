"""fairseq-masking continue: a folder of transformers in and out, its steps done once each."""

import importlib
import subprocess
from pathlib import Path

import pytest
from commands import run_command, run_verb
from foreign_models import LINES, shake, write_wordpiece

from fairseq_masking.files import held

chain = importlib.import_module("fairseq_masking.cli.continue")
SMALL = ["dataset.batch_size=8", "task.global_batch=8", "dataset.num_workers=0", "model.dropout=0.0"]


@pytest.fixture
def modernbert(tmp_path, transformers):
    """A ModernBERT of three layers, and a text that it can read."""
    folder = tmp_path / "modernbert"
    folder.mkdir()
    (tmp_path / "my.txt").write_text("\n".join(LINES * 20) + "\n", encoding="utf-8")
    config = transformers.ModernBertConfig(
        vocab_size=write_wordpiece(folder), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=24, local_attention=6, pad_token_id=0, bos_token_id=6,
        eos_token_id=9, cls_token_id=6, sep_token_id=9,
    )  # fmt: skip
    shake(transformers.ModernBertForMaskedLM(config)).save_pretrained(folder)
    return folder


@pytest.fixture
def trainings(monkeypatch):
    """The trainings that were started, forked instead of spawned; their number of updates can be cut."""
    started = []

    def run(command, **_):
        finished = run_command([Path(command[0]).name, *command[1:]])
        started.append(finished)
        return subprocess.CompletedProcess(command, finished.returncode)

    monkeypatch.setattr(chain.subprocess, "run", run)
    return started


def continued(folder, *options):
    places = ["--from", folder / "modernbert", "--text", folder / "my.txt", "--out", folder / "out"]
    return run_verb("continue", *places, "--method", "fully_explored", "--gpus", 0, *options, "--set", *SMALL)


def test_a_chain_is_done_once_and_goes_on(modernbert, tmp_path, trainings, transformers, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(chain.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, -9))
        assert continued(tmp_path, "--updates", 3) == 137  # killed
    with held(tmp_path / "out" / ".lock"):  # as by a training that outlives its chain
        assert continued(tmp_path, "--updates", 3) == 1
    assert "is being trained by another process" in capsys.readouterr().err

    assert continued(tmp_path, "--updates", 3) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [line.split()[1].rpartition("/")[2] for line in printed] == [
        "fairseq-masking", "fairseq-hydra-train", "fairseq-masking",
    ]  # fmt: skip
    assert "model=mlm_modern_tiny" in printed[1] and "task.tokens_per_sample=24" in printed[1]
    model = transformers.ModernBertForMaskedLM.from_pretrained(tmp_path / "out" / "model")
    before = transformers.AutoModelForMaskedLM.from_pretrained(modernbert)
    assert model.config.num_hidden_layers == 3
    weights = [each.model.layers[1].mlp.Wo.weight for each in (before, model)]
    assert 0 < (weights[0] - weights[1]).abs().max() < 1e-3

    assert continued(tmp_path, "--updates", 3) == 0  # finished: nothing is trained or written
    output = capsys.readouterr().out
    assert (output.count("# done before: "), len(trainings)) == (2, 1) and "nothing to do" in output

    (tmp_path / "out" / "model").rename(tmp_path / "old")  # killed in its last step
    assert continued(tmp_path, "--updates", 3) == 0
    assert (tmp_path / "out" / "model" / "config.json").is_file() and len(trainings) == 1

    assert continued(tmp_path, "--updates", 4) == 1  # what it was started with counts
    assert "was started with another optimization.max_update" in capsys.readouterr().err


def test_a_step_says_itself_what_is_wrong(modernbert, tmp_path, trainings, capsys):
    assert continued(tmp_path, "--valid", tmp_path / "none.txt") == 1
    assert "\nfairseq-masking prepare corpus: error: " in "\n" + capsys.readouterr().err
    (modernbert / "config.json").write_text('{"model_type": "deberta-v2"}')
    assert continued(tmp_path) == 1
    assert "taken are bert, roberta" in capsys.readouterr().err
    assert not trainings and not (tmp_path / "out" / "data").exists()
