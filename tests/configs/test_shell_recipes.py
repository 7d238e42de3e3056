"""Every shell script parses, answers --help, and refuses what it does not know."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "scripts").rglob("*") if path.suffix in (".sh", ".slurm")
)
PRETRAIN = "scripts/pretrain.sh"
ONE_MACHINE: list[str] = []
SEVERAL_MACHINES = ["--nodes", "4", "--rendezvous", "first:29500", "--rendezvous-id", "job"]


def run(script, *arguments, **environment):
    return subprocess.run(
        ["bash", str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_parses_and_is_strict(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert "set -euo pipefail" in (ROOT / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS)
def test_answers_help(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100


@pytest.mark.parametrize("machines", [ONE_MACHINE, SEVERAL_MACHINES])
def test_command_names_the_recipe_and_passes_overrides_on(machines, tmp_path):
    overrides = ["optimization.update_freq=[4]", "model.dropout=0.0"]
    options = ["--data", "/a:/b", "--config", "fully_explored_base", "--gpus", "2", "--save-dir", str(tmp_path)]
    done = run(PRETRAIN, *machines, *options, "--print", *overrides)
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    assert command[command.index("--config-name") + 1] == "fully_explored_base"
    assert command[-2:] == overrides
    assert "task.data='/a:/b'" in command
    assert f"checkpoint.save_dir='{tmp_path}'" in command
    if machines:
        expected = "torchrun --nnodes 4 --nproc_per_node 2 --rdzv_backend c10d --rdzv_endpoint first:29500"
        assert command[:11] == [*expected.split(), "--rdzv_id", "job"] and "world_size" not in done.stdout
        assert command[11].endswith("/fairseq-hydra-train")
    else:
        assert command[0] == "fairseq-hydra-train"
        assert "distributed_training.distributed_world_size=2" in command


def test_without_a_gpu_the_cpu_trains_in_fp32():
    command = shlex.split(run(PRETRAIN, "--data", "/a", "--gpus", "0", "--print").stdout)
    assert {"common.cpu=true", "common.bf16=false"} <= set(command)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing"),
        (["--data", "/a", "--gpu", "2"], "unknown option --gpu"),
        (["--data", "/a", "--gpus", "two"], "--gpus two is not a number"),
        (["--data", "/a", "--config", "absent"], "no recipe"),
        (["--data", "/a", "positional"], "'positional' is neither"),
        (["--data"], "--data needs a value"),
        (["--data", "/a", "--gpus", "999"], "--gpus 999, but this machine has"),
        (["--data", "/a", "--nodes", "none"], "--nodes none is not a number above 0"),
        (["--data", "/a", "--nodes", "2"], "--nodes 2 needs --rendezvous HOST:PORT"),
        (["--data", "/a", "--gpus", "0", "--rendezvous", "a:1"], "needs --gpus above 0"),
    ],
)
def test_wrong_options_are_one_line(arguments, message):
    done = run(PRETRAIN, *arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_slurm_script_says_that_it_needs_a_job():
    done = run("scripts/pretrain.slurm", "--data", "/a", SLURM_JOB_ID="")
    assert done.returncode == 2
    assert "sbatch" in done.stderr


def test_quickstart_refuses_wrong_options():
    assert run("scripts/quickstart/run.sh", "--updates", "many").returncode == 2
    assert run("scripts/quickstart/run.sh", "--update", "3").returncode == 2


def test_environment_refuses_wrong_options():
    done = run("scripts/environment.sh", "--run-time")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_bundled_corpus_is_small_and_its_source_stated():
    folder = ROOT / "scripts" / "quickstart"
    assert (folder / "sotu.txt.xz").stat().st_size <= 3_000_000
    assert "public domain" in (folder / "SOURCE.md").read_text(encoding="utf-8")
