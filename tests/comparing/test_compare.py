"""A comparison at a toy budget, killed on the way, and what its rule and gates say."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
from commands import prepare_sentences, run_verb

from fairseq_masking.comparing import comparison
from fairseq_masking.comparing.comparison import read_settings, verdict
from fairseq_masking.errors import UserError
from fairseq_masking.files import configs_folder
from fairseq_masking.finetuning import runs as hydra_runs

SETTINGS = """
recipe: mlm_tiny
budget: {tokens: 1300}
lr: [1.0e-2]
seeds: 2
valid_tokens: 16
overrides: [task.tokens_per_sample=16, dataset.batch_size=4, dataset.num_workers=0, model.encoder_layers=1,
  model.encoder_embed_dim=16, model.encoder_ffn_embed_dim=16, model.max_positions=64, model.relative_position=none]
runs:
  mlm: {}
  one_depth: {recipe: amos_tiny, overrides: ["model.generator_layers=[1]", task.mask_prob=0.3]}
"""
MEASURED = ("hours", "peak_mib")  # of the machine, not of the seed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    prepare_sentences(folder, "--valid", folder / "text")
    (folder / "toy.yaml").write_text(SETTINGS, encoding="utf-8")
    (folder / "pairs").mkdir()
    pair = {"sentence_good": "The cat sat on the mat.", "sentence_bad": "The mat cat on the sat."}
    (folder / "pairs" / "order.jsonl").write_text(json.dumps(pair), encoding="utf-8")
    return folder


def compare(folder, out, *more):
    places = ("--data", folder / "data", "--out", out, "--minimal-pairs", folder / "pairs")
    return run_verb("compare", "--config", folder / "toy.yaml", *places, *more)


def table(out):
    with (out / "table.csv").open(encoding="utf-8") as file:
        return [
            {key: value for key, value in row.items() if not key.startswith(MEASURED) and key != "command"}
            for row in csv.DictReader(file)
        ]


def test_a_killed_comparison_goes_on_to_the_same_numbers(folder, tmp_path, capsys, monkeypatch):
    assert compare(folder, tmp_path / "whole", "--dry-run") == 0
    printed = capsys.readouterr().out
    commands = [line for line in printed.splitlines() if line.startswith("fairseq-hydra-train --config-dir")]
    assert len(commands) == 2 and "optimization.max_update=20 'optimization.lr=[0.01]' common.seed=1" in commands[0]
    assert "| mlm " in printed and not (tmp_path / "whole" / "runs").exists()
    assert compare(folder, tmp_path / "whole") == 0
    printed = capsys.readouterr().out
    assert "unigram of the training text on valid" in printed and "mlm stays on the unigram" in printed
    page = (tmp_path / "whole" / "page.html").read_text(encoding="utf-8")
    assert "data:image/png;base64,iVBOR" in page and "<td>one_depth</td>" in page
    rows = table(tmp_path / "whole")
    assert [(row["run"], row["seeds"], row["tokens"]) for row in rows] == [
        ("mlm", "2", "1280"), ("one_depth", "2", "1280")
    ]  # fmt: skip
    assert float(rows[1]["flops"]) > float(rows[0]["flops"]) > 0 and rows[1]["loss_verdict"] and rows[1]["blimp"]
    kills, join = [1, 3, 2], hydra_runs._Training.join

    def die(training):
        """kill -9 as soon as it has saved so often."""
        (place,) = (Path(word.split("=")[1].strip("'")) for word in training.arguments if "save_dir=" in word)
        wanted = kills.pop(0) if kills else None
        while wanted and training.is_alive():
            if len({path.stat().st_mtime_ns for path in place.glob("checkpoint_last.pt")} | seen) >= wanted:
                os.kill(training.pid, signal.SIGKILL)
                break
            seen.update(path.stat().st_mtime_ns for path in place.glob("checkpoint_last.pt"))
            time.sleep(0.001)
        seen.clear()
        join(training)

    seen = set()
    monkeypatch.setattr(hydra_runs._Training, "join", die)
    failed = 0
    while compare(folder, tmp_path / "killed") != 0:
        failed += 1
        assert failed <= 3
    assert failed >= 2 and table(tmp_path / "killed") == rows
    before = (tmp_path / "killed" / "page.html").read_text()
    assert compare(folder, tmp_path / "killed") == 0, "nothing is left to train"
    assert (tmp_path / "killed" / "page.html").read_text() == before
    assert compare(folder, tmp_path / "killed", "seeds=3") == 1
    assert "holds a comparison with other settings (seeds)" in capsys.readouterr().err


def test_the_best_rate_takes_the_other_seeds(folder, tmp_path, monkeypatch):
    """And what all rates took is counted; each run has its own folder."""
    settings, trained, written = read_settings(str(folder / "toy.yaml"), ["lr=[0.1,0.2,0.3]", "seeds=3"]), [], []
    cost = {"tokens": 10, "flops": 100, "seconds": 1, "parameters": 1}
    monkeypatch.setattr(comparison, "cost_of", lambda *_: cost)

    def train(runs, **_):
        for run in (run for run in runs if run.scores() is None):
            best = {"mlm": 0.2, "one_depth": 0.3}[run.name]
            run.record(scores={"loss": 5 + abs(run.lr - best), "accuracy": 1.0, "hours": 2.0, "peak_mib": 1.0})
            trained.append((run.name, run.lr, run.seed, run.folder))

    monkeypatch.setattr(comparison, "run_all", train)
    monkeypatch.setattr(comparison, "write_report", lambda *given: written.extend(given))
    settings.compare(folder / "data", tmp_path, minimal_pairs=None, devices=["cpu"], dry=False, argv=["x"])
    rates = [(name, lr, 1) for name in ("mlm", "one_depth") for lr in (0.1, 0.2, 0.3)]
    others = [(name, lr, seed) for name, lr in (("mlm", 0.2), ("one_depth", 0.3)) for seed in (2, 3)]
    assert [each[:3] for each in trained] == rates + others and len({each[3] for each in trained}) == 10
    _, plan, tried, seeds, *_ = written
    assert plan["runs"]["mlm"]["updates"] == 130 and [run.seed for run in seeds["mlm"]] == [1, 2, 3]
    assert sum(run.scores()["hours"] for run in tried["mlm"]) == 6


def test_the_rule():
    baseline = [5.0, 5.2, 5.4]  # standard deviation 0.2
    losses = {4.85: "no difference", 4.75: "better", 5.65: "worse"}
    assert {loss: verdict("loss", [loss] * 3, baseline) for loss in losses} == losses
    assert verdict("accuracy", [5.65] * 3, baseline) == "better"
    assert verdict("accuracy", [9.0], [5.0]) == "one seed: no verdict"


@pytest.mark.parametrize("name", sorted(path.stem for path in (configs_folder() / "compare").glob("*.yaml")))
def test_shipped_settings_are_read(name):
    settings = read_settings(name, ["seeds=1"])
    recipes = [settings.recipe_of(run)[0] for run in settings.runs]
    assert settings.seeds == 1 and all(recipe.is_file() for recipe in recipes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["sedes=2"], "sedes"), (["budget.updates=3"], "one of tokens, flops, hours"), (["lr=[]"], "give runs, lr")],
)
def test_settings_that_say_nothing(overrides, message):
    with pytest.raises(UserError, match=message):
        read_settings("tiny", overrides)
