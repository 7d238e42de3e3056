"""A sweep from files to tables: what it trains, what it keeps, what it does not repeat, what it refuses."""

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import ROOT, TINY_TRAINING, assert_ok, kill_when, run_command, run_verb
from finetuning_data import prepare, write_prepared_corpus, write_sst2
from hydra.core.override_parser.overrides_parser import OverridesParser

from fairseq_masking.cli.finetune import add_options
from fairseq_masking.errors import UserError
from fairseq_masking.files import held
from fairseq_masking.finetuning import runs as finetuning_runs
from fairseq_masking.finetuning import sweep as sweeps
from fairseq_masking.finetuning import tasks as finetuning_tasks
from fairseq_masking.finetuning.prepare import finetuning_settings
from fairseq_masking.finetuning.protocols import PROTOCOLS
from fairseq_masking.finetuning.runs import Run, best_of, grid_of, run_all
from fairseq_masking.finetuning.tasks import FinetuningTask, Start, named_path, source_of

RECIPES = ROOT / "configs" / "finetune"
ONE_RATE = "optimization.lr=[3e-4]"
SMALL = ("model.encoder_layers=1", "model.encoder_embed_dim=16", "model.encoder_ffn_embed_dim=32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """corpus/, glue/SST-2, data/ (prepared) and mlm.pt."""
    folder = tmp_path_factory.mktemp("finetune")
    corpus = write_prepared_corpus(folder)
    write_sst2(folder / "glue" / "SST-2")
    prepare("SST-2", folder / "glue" / "SST-2", corpus, folder / "data")
    shape = ("--encoder-layers", "1", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32")
    places = (corpus, "--user-dir", ROOT / "fairseq_masking", "--save-dir", folder / "save")
    finished = run_command(["fairseq-train", *places, *TINY_TRAINING.split(), *shape])
    assert finished.returncode == 0, finished.stderr[-2000:]
    (folder / "save" / "checkpoint_last.pt").rename(folder / "mlm.pt")
    return folder


def sweep(folder, out, *more):
    data = str(folder / "glue")
    return ["finetune", "--task", "SST-2", "--data", data, "--protocol", "tiny", "--out", str(out), *more]


@pytest.fixture(scope="module")
def swept(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("swept")
    given = sweep(folder, out, "--checkpoint", f"MLM={folder / 'mlm.pt'}", "--seeds", "2", "--jobs", "2")
    assert run_verb(*given, "--set", ONE_RATE, "--predict") == 0
    return given, out


def test_the_table_says_what_the_runs_scored(swept):
    _, out = swept
    runs = {path.parent.name: json.loads(path.read_text()) for path in out.glob("MLM/2/SST-2/*/*/run.json")}
    values = [runs[f"seed{seed}"]["scores"]["valid"]["accuracy"] for seed in (1, 2)]
    (result,) = json.loads((out / "results.json").read_text())["results"]
    assert result["values"] == values and result["updates"] == 2 and result["metric"] == "accuracy"
    assert result["score"] == pytest.approx(sum(values) / 2)
    table = (out / "table.md").read_text()
    assert re.search(rf"\| MLM, 2 updates +\| +{result['score']:.2f} ± ", table)
    assert "majority" in table and "TF-IDF" in table


def test_the_best_runs_weights_and_predictions_stay(swept):
    _, out = swept
    records = {path.parent: json.loads(path.read_text())["scores"] for path in out.rglob("run.json")}
    best = max(scores["valid"]["accuracy"] for scores in records.values())
    kept = list(out.rglob("checkpoint_*.pt"))
    assert len(kept) == 1 and kept[0].name == "checkpoint_best.pt"
    assert records[kept[0].parent]["valid"]["accuracy"] == best
    lines = (out / "MLM/2/SST-2/predictions/SST-2.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 8
    scores = json.loads((out / "MLM/2/SST-2/predictions/scores.json").read_text())
    assert scores["valid"]["accuracy"] == best


def test_a_run_is_the_command_to_the_bit(swept, tmp_path):
    """Forked from the server, as started by itself."""
    (kept,) = swept[1].rglob("checkpoint_*.pt")
    record = json.loads((kept.parent / "run.json").read_text())
    recipe = ("--config-dir", RECIPES, "--config-name", Path(record["recipe"]).stem)
    assert_ok(run_command(["fairseq-hydra-train", *recipe, *record["overrides"], f"checkpoint.save_dir={tmp_path}"]))
    forked, alone = (torch.load(place / kept.name, weights_only=True)["model"] for place in (kept.parent, tmp_path))
    assert forked.keys() == alone.keys() and all(torch.equal(forked[key], alone[key]) for key in alone)


def test_a_run_that_dies_harms_no_other(tmp_path):
    with (tmp_path / "output").open("ab") as output, held(tmp_path / "lock") as lock:
        first, second = (finetuning_runs._Training(["--version"], {}, output.fileno(), lock) for _ in range(2))
        first.start()
        os.kill(first.pid, signal.SIGKILL)
        second.start()
        first.join()
    with pytest.raises(UserError, match="is being trained by another process"), held(tmp_path / "lock"):
        pass  # the second one holds it, though who started it does not
    second.join()
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL, 0)
    assert "Hydra 1." in (tmp_path / "output").read_text()


def test_a_run_whose_server_opened_the_gpus_starts_afresh(monkeypatch):
    """CUDA cannot be forked."""
    training = finetuning_runs._Training(["--help"], {"CUDA_VISIBLE_DEVICES": "7"}, *[SimpleNamespace(detach=int)] * 2)
    started = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("torch.cuda._is_in_bad_fork", lambda: True)
    for name in ("dup2", "set_inheritable"):
        monkeypatch.setattr(os, name, lambda *_: None)

    def execv(program, command):
        started.append((command[1:], os.environ["CUDA_VISIBLE_DEVICES"]))
        raise InterruptedError

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(InterruptedError):
        training.run()
    assert started == [(["-m", "fairseq_cli.hydra_train", "--help"], "7")]


def test_finished_runs_are_not_repeated(swept, capsys, monkeypatch):
    given, out = swept
    table = (out / "table.md").read_text()
    monkeypatch.setattr("fairseq_masking.finetuning.runs._train", None)
    assert run_verb(*given, "--set", ONE_RATE) == 0
    assert "2 of 2 runs have finished before" in capsys.readouterr().out
    assert (out / "table.md").read_text() == table


def test_a_table_without_baselines_is_a_table(swept, capsys, monkeypatch):
    """What is wrong with them is said before training."""
    given, _ = swept

    def gone(data):
        raise UserError("train.tsv is gone")

    monkeypatch.setattr(sweeps, "baseline_scores", gone)
    assert run_verb(*given, "--set", ONE_RATE) == 0
    told = capsys.readouterr().out
    assert told.index("no baselines of SST-2: train.tsv is gone") < told.index("2 of 2 runs")
    assert re.search(r"\| majority +\| +\|", told) and "| MLM, 2 updates " in told


def test_other_settings_want_another_folder(swept, capsys):
    given, _ = swept
    assert run_verb(*given, "--set", ONE_RATE, "optimization.max_epoch=1") == 1
    error = capsys.readouterr().err
    assert "other settings (optimization.max_epoch=1): give another --out" in error and error.count("\n") == 1


def test_a_failed_run_is_told_in_one_line(folder, tmp_path, capsys):
    given = sweep(folder, tmp_path, "--scratch", "mlm_tiny", "--corpus", str(folder / "corpus"))
    assert run_verb(*given, "--set", "model.layer_lr_decay=2") == 1
    error = capsys.readouterr().err
    assert "failed: --layer-lr-decay 2.0: give a number above 0" in error and error.count("\n") == 1
    assert (tmp_path / "from scratch/0/SST-2/lr_0.0003/seed1/output.txt").is_file()


def test_a_killed_sweep_goes_on_to_the_same_scores(folder, tmp_path):
    """kill -9 of all its processes while it trains."""

    def verb(out):
        given = sweep(folder, out, "--scratch", "mlm_tiny", "--corpus", str(folder / "corpus"))
        return [*given, "--seeds", "1", "--set", ONE_RATE, *SMALL, "optimization.max_epoch=6"]

    def scores(out):
        (record,) = out.rglob("run.json")
        return json.loads(record.read_text()).get("scores")

    kill = kill_when(lambda: any((tmp_path / "killed").rglob("checkpoint_last.pt")))
    command = ["fairseq-masking", *verb(tmp_path / "killed")]
    assert run_command(command, server="plain", started=kill).returncode == -signal.SIGKILL
    assert scores(tmp_path / "killed") is None
    for out in ("killed", "whole"):
        assert run_verb(*verb(tmp_path / out)) == 0
    assert scores(tmp_path / "killed") == scores(tmp_path / "whole") is not None
    output = next((tmp_path / "killed").rglob("output.txt")).read_text()
    assert output.count("Loaded checkpoint") == 1


def a_run(folder, out, start=None, seed=1):
    task = FinetuningTask.of_folder(folder / "data")
    start = start or Start("MLM", 2, ("model=mlm_tiny",))
    return Run(start, task, ("optimization.lr=[0.001]",), seed, RECIPES / "tiny.yaml", "accuracy", (), out)


def finish(run, accuracy):
    run.record(scores={"valid": {"accuracy": accuracy}})
    run.result.touch()


def the_sweep(*argv):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return sweeps.Sweep(**vars(parser.parse_args([str(part) for part in argv])))


def test_two_sweeps_do_not_train_the_same_run(folder, tmp_path):
    run = a_run(folder, tmp_path)
    run.record()
    with (run.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # a second EX is refused, a second SH would not be
        with pytest.raises(UserError, match="is being trained by another process"):
            run_all([run], devices=["cpu"])


@pytest.mark.parametrize(("keep", "kept"), [(False, {2}), (True, {1, 2, 3})])
def test_the_best_runs_checkpoint_stays(keep, kept, folder, tmp_path, monkeypatch):
    accuracies = {1: 60.0, 2: 80.0, 3: 70.0}  # by seed
    module = "fairseq_masking.finetuning.runs"

    def train(run, device):
        run.record()
        run.result.touch()
        (run.folder / "checkpoint_last.pt").touch()

    monkeypatch.setattr(f"{module}._train", train)
    monkeypatch.setattr(f"{module}.Finetuned.load", lambda checkpoint, device: checkpoint.parent.name)
    monkeypatch.setattr(f"{module}.scores_of", lambda name: {"valid": {"accuracy": accuracies[int(name[4:])]}})
    runs = [a_run(folder, tmp_path, seed=seed) for seed in accuracies]
    other = a_run(folder, tmp_path, Start("another", 2, ("model=mlm_tiny",)))
    run_all([*runs, other], devices=["cpu"], keep_checkpoints=keep)
    assert {run.seed for run in runs if run.result.is_file()} == kept
    assert best_of(runs) == runs[1].result and best_of([other]) == other.result
    assert not list(tmp_path.rglob("checkpoint_last.pt"))


def test_another_sweeps_runs_in_the_same_folder_do_not_count(folder, tmp_path):
    other = replace(a_run(folder, tmp_path), configuration=("optimization.lr=[0.1]",))
    finish(other, 99.0)
    runs = [a_run(folder, tmp_path, seed=seed) for seed in (1, 2, 3)]
    assert best_of(runs) is None
    for run, accuracy in zip(runs, (70.0, 80.0, 70.0), strict=True):
        finish(run, accuracy)
    finetuning_runs._prune(runs)
    assert best_of(runs) == runs[1].result
    assert not runs[2].result.exists() and other.result.exists()
    assert best_of(runs[::2]) is None  # not the checkpoint of a lesser run


def test_a_replaced_checkpoint_or_data_want_another_folder(folder, tmp_path):
    """Records from before files were told apart stay valid."""
    checkpoint, data = tmp_path / "mlm.pt", tmp_path / "data"
    checkpoint.touch()
    shutil.copytree(folder / "data", data)

    def run():
        start, task = Start.of_checkpoint("MLM", str(checkpoint), 2), FinetuningTask.of_folder(data)
        return replace(a_run(folder, tmp_path, start), task=task)

    finish(run(), 70.0)
    assert run().scores()
    record = run().folder / "run.json"
    before = json.loads(record.read_text())
    checkpoint.write_text("another")
    with pytest.raises(UserError, match="a run from another checkpoint in the same place: give another --out"):
        run().scores()
    manifest = json.loads((data / "manifest.json").read_text())
    del manifest["digests"]  # as one of before, that its own digest does not bind
    manifest["settings"]["finetuning"]["seed"] = 2
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="a run from another checkpoint and data in the same place"):
        run().scores()
    del before["inputs"]
    record.write_text(json.dumps(before))
    assert run().scores()


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        ("x.py: error: --lr 0: no\n\nSet HYDRA_FULL_ERROR=1 for\n", "--lr 0: no"),
        ("ValueError: a\nTraceback\ntorch.cuda.OutOfMemoryError: b\n\nSet HYDRA_FULL_ERROR=1\n",
         "torch.cuda.OutOfMemoryError: b"),
        ("Could not override 'a.b'.\nKey 'b' is not in\n    c: d\n\nSet HYDRA_FULL_ERROR=1\n",
         "Could not override 'a.b'."),
        ("Killed\n\nSet HYDRA_FULL_ERROR=1\n", "Killed"),
        ("", "it printed nothing"),
    ],
)  # fmt: skip
def test_why_a_run_failed(told, cause, folder, tmp_path, monkeypatch):
    run = a_run(folder, tmp_path)
    run.record()
    (run.folder / "output.txt").write_text("x: error: of the attempt before\n")

    def fail(arguments, variables, output, lock):
        os.write(output, told.encode())
        return SimpleNamespace(start=lambda: None, join=lambda: None, exitcode=1)

    monkeypatch.setattr(finetuning_runs, "_Training", fail)
    with pytest.raises(UserError, match=re.escape(f"failed: {cause} (all of it: ")):
        finetuning_runs._train(run, "cpu")


@pytest.mark.parametrize(("visible", "name"), [(None, "1"), ("6, 7", "7"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_run_gets_the_gpu_that_this_process_counts_so(visible, name, folder, tmp_path, monkeypatch):
    run, seen = a_run(folder, tmp_path), []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    def train(arguments, variables, output, lock):
        seen.append(variables["CUDA_VISIBLE_DEVICES"])
        run.result.touch()
        return SimpleNamespace(start=lambda: None, join=lambda: None, exitcode=0)

    monkeypatch.setattr(finetuning_runs, "_Training", train)
    finetuning_runs._train(run, "cuda:1")
    assert seen == [name]


def test_predictions_are_made_where_it_was_trained(folder, tmp_path, monkeypatch):
    run, devices = a_run(folder, tmp_path), []
    finish(run, 70.0)
    monkeypatch.setattr(sweeps.Finetuned, "load", lambda _, device="cpu": devices.append(device))
    monkeypatch.setattr(sweeps, "predict", lambda *_: None)
    sweeps._predict([run], "cuda:1")
    assert devices == ["cuda:1"]


def test_devices_that_cannot_be_used(monkeypatch, tmp_path):
    def check(*argv):
        the_sweep("--task", "CoLA", "--out", tmp_path, "--checkpoint", "mlm.pt", *argv).check()

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="there is no cuda:2, PyTorch sees 2 GPUs"):
        check("--devices", "0,2")
    check("--devices", "0,1")
    tiny = ("--devices", "1", "--protocol", "tiny")
    with pytest.raises(UserError, match=r"the recipe tiny trains on CPU: add --set common\.cpu=false"):
        check(*tiny)
    check(*tiny, "--set", "common.cpu=false")


@pytest.mark.parametrize("key", ["common.seed", "++task.data", "model.init_from"])
def test_what_a_sweep_sets_itself(key, tmp_path):
    given = ("--task", "CoLA", "--out", tmp_path, "--checkpoint", "mlm.pt")
    found = the_sweep(*given, "--set", f"{key}=7", "--set", ONE_RATE)
    assert found.overrides == [f"{key}=7", ONE_RATE]
    with pytest.raises(UserError, match=re.escape(f"--set {key}=7: ") + ".*: leave it out"):
        found.check()


def test_an_option_may_be_given_again(tmp_path):
    again = ("--task", "CoLA", "--task", "RTE", "--checkpoint", "a", "--checkpoint", "b")
    found = the_sweep(*again, "--out", tmp_path)
    assert (found.task, found.checkpoint) == (["CoLA", "RTE"], ["a", "b"])


def test_names_and_paths_of_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "lr=1"
    place.mkdir()
    for path in (place / "c.pt", tmp_path / "c.pt"):
        path.touch()
    assert named_path("lr=1/c.pt") == ("lr=1", "lr=1/c.pt")
    assert named_path("MLM=lr=1/c.pt") == ("MLM", "lr=1/c.pt")
    assert named_path("c.pt") == (tmp_path.name, "c.pt")
    assert named_path("google/electra") == ("electra", "google/electra")


def test_a_path_may_have_an_apostrophe(folder, tmp_path):
    run = a_run(folder, tmp_path / "o'brien", Start.of_checkpoint("a", "o'brien/a b.pt", 0))
    parsed = [OverridesParser.create().parse_override(override) for override in run.overrides]
    values = {each.key_or_group: each.value() for each in parsed}
    assert values["model.init_from"] == "o'brien/a b.pt"
    assert values["checkpoint.save_dir"] == str(run.folder)


def test_rows_are_as_long_as_the_smallest_model_reads(folder, tmp_path, monkeypatch):
    sizes = {"small.pt": 24, "large.pt": 1024}
    monkeypatch.setattr(
        finetuning_tasks,
        "read_source",
        lambda path: SimpleNamespace(config=SimpleNamespace(max_positions=sizes[path])),
    )
    starts = [Start.of_checkpoint(path, path, 0) for path in sizes]
    given = ("--task", "SST-2", "--corpus", folder / "corpus", "--out")
    (task,) = the_sweep(*given, tmp_path, "--data", folder / "glue").tasks([*starts, Start("none", 0, ())])
    assert finetuning_settings(task.data)["max_length"] == 24
    (task,) = the_sweep(*given, tmp_path / "large", "--data", folder / "glue").tasks(starts[1:])
    assert finetuning_settings(task.data)["max_length"] == 512
    found = the_sweep(*given, tmp_path, "--data", folder / "data")
    with pytest.raises(UserError, match=r"512 tokens, small.pt reads 24: prepare it with --max-length 24"):
        found.tasks(starts)


def test_two_tasks_need_two_names(folder, tmp_path):
    found = the_sweep("--task", "SST-2", "SST-2", "--data", folder / "data", "--out", tmp_path)
    with pytest.raises(UserError, match="two are called SST-2"):
        found.tasks([])


def test_a_run_is_called_after_what_is_swept(folder, tmp_path):
    assert a_run(folder, tmp_path).folder == tmp_path / "MLM/2/SST-2/lr_0.001/seed1"


@pytest.mark.parametrize(
    ("recipe", "size", "first"),
    [
        ("map_net", 16, ("optimization.lr=[1e-05]", "dataset.batch_size=16")),
        ("fully_explored", 6, ("optimization.lr=[1e-05]", "dataset.batch_size=16")),
        ("fully_explored_domain", 1, ("optimization.lr=[2e-05]",)),
        ("three_ml", 24, ("optimization.lr=[1e-05]", "dataset.batch_size=16", "optimization.max_epoch=3")),
        ("three_ml_large_tasks", 4, ("optimization.lr=[5e-05]", "optimization.max_epoch=3")),
        (
            "amos",
            80,
            (
                "optimization.lr=[1e-05]",
                "dataset.batch_size=16",
                "optimization.max_epoch=2",
                "lr_scheduler.warmup_ratio=0.06",
            ),
        ),
        (
            "amos_squad",
            32,
            (
                "optimization.lr=[2e-05]",
                "dataset.batch_size=16",
                "optimization.max_epoch=2",
                "lr_scheduler.warmup_ratio=0.06",
            ),
        ),
        ("tiny", 2, ("optimization.lr=[0.0003]",)),
        ("tiny_squad", 1, ("optimization.lr=[0.0003]",)),
    ],
)
def test_the_grids_are_the_papers(recipe, size, first):
    """2008.05333, Table 2; 1907.11692, Table 10; 2211.04898, Table 5; 2204.03243, Table 4."""
    grid = grid_of(RECIPES / f"{recipe}.yaml")
    assert len(grid) == len(set(grid)) == size and grid[0] == first


def test_what_is_set_is_not_swept():
    grid = grid_of(RECIPES / "three_ml.yaml", ["optimization.lr=[1e-4]", "optimization.max_epoch=2"])
    assert grid == [("dataset.batch_size=16",), ("dataset.batch_size=32",)]


def test_every_recipe_is_some_protocols():
    used = {protocol.recipe_of(task) for protocol in PROTOCOLS.values() for task in ("CoLA", "MNLI", "squad", "jsonl")}
    assert used == {path.stem for path in RECIPES.glob("*.yaml")}


def test_there_is_no_such_recipe():
    with pytest.raises(UserError, match=r"no recipe .*nothing.yaml; there are: amos, "):
        grid_of(RECIPES / "nothing.yaml")


def test_a_task_may_start_from_anothers_best_model(folder, tmp_path):
    """3ML: RTE, STS-B and MRPC from the MNLI model."""
    found = the_sweep("--protocol", "three_ml", "--out", tmp_path, "--task", "RTE", "MNLI")
    start = Start("3ML", 5, ("model.init_from='pretrained.pt'",))
    task, base = (FinetuningTask(name, name, folder / "data") for name in ("RTE", "MNLI"))
    of_mnli = [replace(a_run(folder, tmp_path, start, seed), task=base) for seed in (1, 2, 3)]
    for run, accuracy in zip(of_mnli, (70.0, 80.0, 60.0), strict=True):
        finish(run, accuracy)
    best = of_mnli[1].result
    finished = {(base, start): of_mnli}
    runs = found.runs(start, task, finished)
    assert len(runs) == 24 * 5
    assert runs[0].start.overrides == (f"model.init_from='{best}'",) and runs[0].start.stamp
    best.unlink()
    with pytest.raises(UserError, match="lost its best run's checkpoint"):
        found.runs(start, task, finished)


def test_that_task_is_asked_for_before_any_training(folder, tmp_path, capsys):
    given = ["--task", "RTE", "--protocol", "three_ml", "--out", str(tmp_path / "out"), "--corpus", "x"]
    assert run_verb("finetune", *given, "--scratch", "mlm_tiny") == 1
    error = capsys.readouterr().err
    assert "starts RTE from the MNLI model: add MNLI to --task" in error and error.count("\n") == 1


def test_all_tasks_records_are_read_before_any_training(folder, tmp_path, monkeypatch):
    tasks = [FinetuningTask(name, name, folder / "data") for name in ("SST-2", "CoLA")]
    given = ("--protocol", "tiny", "--out", tmp_path, "--task", "SST-2", "--scratch", "mlm_tiny")
    found = the_sweep(*given, "--corpus", folder / "corpus")
    monkeypatch.setattr(sweeps.Sweep, "tasks", lambda *_: tasks)
    monkeypatch.setattr(sweeps, "_baselines", lambda task: {})
    start = Start("from scratch", 0, ("model=mlm_tiny",))
    last = found.runs(start, tasks[1], {})[-1]
    replace(last, common=("optimization.max_epoch=9",)).record()
    trained = []
    monkeypatch.setattr(finetuning_runs, "_train", lambda run, *_, **__: trained.append(run))
    with pytest.raises(UserError, match=r"CoLA.* other settings"):
        found.run()
    assert trained == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "nothing to fine-tune: give --checkpoint PATH or --scratch ARCH"),
        (("--scratch", "mlm_tiny"), "--scratch alone has no tokeniser: give --corpus DIR"),
        (("--checkpoint", "nothing.pt"), "no such checkpoint: nothing.pt"),
        (("--checkpoint", "a=MLM.pt", "--seeds", "0"), "--seeds: 0 is below 1"),
        (("--checkpoint", "x", "--devices", "0,gpu"), "'0,gpu' is no list of GPU numbers"),
        (("--checkpoint", "folder"), "folder names no corpus: give --corpus DIR"),
    ],
)
def test_bad_options(options, expected, folder, tmp_path, capsys):
    status = run_verb(*sweep(folder, tmp_path / "out", *options))
    error = capsys.readouterr().err
    assert status in (1, 2) and expected in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_checkpoints_need_two_names(folder, tmp_path, capsys):
    same = [f"{folder / 'mlm.pt'}"] * 2
    assert run_verb(*sweep(folder, tmp_path / "out", "--checkpoint", *same)) == 1
    assert "after 2 updates: give NAME=PATH" in capsys.readouterr().err


def test_a_starts_updates_are_the_checkpoints(folder):
    assert Start.of_checkpoint("MLM", str(folder / "mlm.pt")).updates == 2
    assert Start.of_checkpoint("BERT", "bert-base-uncased") == Start(
        "BERT", 0, ("model.init_from='bert-base-uncased'",), "bert-base-uncased"
    )


@pytest.mark.parametrize(
    ("task", "place", "expected"),
    [("SST-2", "glue", "glue/SST-2"), ("SST-2", "glue/SST-2", "glue/SST-2"), ("SST-2", "data", "data")],
)
def test_where_a_tasks_files_are(task, place, expected, folder):
    assert source_of(task, folder / place) == (task, folder / expected)
    assert source_of(f"{task}={folder / place}", Path("elsewhere")) == (task, folder / place)


def test_a_task_that_there_is_not():
    with pytest.raises(UserError, match="--task SST2: choose of CoLA, SST-2"):
        source_of("SST2", Path())
    with pytest.raises(UserError, match="no such folder: nowhere; give --data DIR or --task SST-2=DIR"):
        source_of("SST-2", Path("nowhere"))
