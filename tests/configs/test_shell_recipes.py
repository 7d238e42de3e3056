"""Every shell script parses, answers --help, and refuses what it does not know."""

import os
import shlex
import shutil
import signal
import subprocess
import time
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


RANK = "trap 'touch saved; exit 138' USR1; touch started; for _ in {1..600}; do sleep 0.05; done"
FAKES = {
    "srun": 'shift; exec "$@"',
    "scontrol": 'echo "$*" >>scontrol.log; echo first',
    "python": "echo 2",  # GPUs
    "fairseq-hydra-train": "",
    # as torchrun: it dies of the signal itself, and where a rank fails it ends with 1
    "torchrun": f'bash -c "{RANK}" || exit 1',
}


def test_slurm_job_saves_before_its_time_is_up_and_requeues_itself(tmp_path):
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "n",
        "SLURM_JOB_NUM_NODES": "1",
    }
    variables = {**os.environ, **slurm, "SLURM_GPUS_ON_NODE": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "scripts" / "pretrain.slurm"), "--data", "/a"]
    job = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists() and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)  # Slurm's --signal=B:USR1@600, to the batch script alone
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 138 and (tmp_path / "saved").exists() and "job 7 is requeued" in output
    assert (tmp_path / "scontrol.log").read_text().splitlines()[-1] == "requeue 7"
    assert "#SBATCH --signal=B:USR1@600" in (ROOT / "scripts" / "pretrain.slurm").read_text()


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
