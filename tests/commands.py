"""fairseq's commands as subprocesses, and the small corpus that they run on."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fork_server import PROGRAMS, run_forked

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fairseq_masking"
TINY_TRAINING = """
    --task masked_pretraining --arch mlm_tiny --criterion mlm --optimizer adam --lr 1e-3 --dropout 0
    --attention-dropout 0 --tokens-per-sample 32 --batch-size 4 --max-update 2 --num-workers 0
    --log-format simple --log-interval 1 --cpu
"""
SENTENCES = ("The cat sat on the mat.", "A dog ate the red hat.", "The old cat saw a dog on the mat.")
NUM_WORDS = 199  # with <s>, <pad>, </s>, <unk> and <mask>: 204 symbols
LAUNCHER_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_JOB_NODELIST")


class Finished(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def write_corpus(folder: Path, num_sentences: dict[str, int], seed: int = 0) -> None:
    """Writes dict.txt and, per split, .bin and .idx as fairseq's own binariser does."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    lines = [f"word{number} {NUM_WORDS - number}" for number in range(NUM_WORDS)] + ["<mask> 0"]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rng = np.random.default_rng(seed)
    for split, count in num_sentences.items():
        builder = MMapIndexedDatasetBuilder(str(folder / f"{split}.bin"), dtype=np.uint16)
        for _ in range(count):
            steps = rng.integers(1, 4, size=rng.integers(4, 16))
            words = (rng.integers(NUM_WORDS) + np.cumsum(steps)) % NUM_WORDS
            builder.add_item(torch.tensor([*(words + 4), 2]))  # the first word is symbol 4, </s> is 2
        builder.finalize(str(folder / f"{split}.idx"))


def prepare_sentences(folder: Path, *options: str | Path) -> Path:
    """Prepares ``SENTENCES``, FOLDER/text, in lower case, with 60 symbols; returns FOLDER/data."""
    text, data = folder / "text", folder / "data"
    text.write_text("\n".join(SENTENCES * 60) + "\n", encoding="utf-8")
    places = ["--train", text, "--out", data]
    assert run_verb("prepare", "corpus", *places, "--vocab-size", 60, "--lowercase", *options) == 0
    return data


def run_verb(*arguments: object) -> int:
    """The exit status of ``fairseq-masking ARGUMENTS`` in this process."""
    from fairseq_masking.cli.main import main

    return status_of(lambda: main([str(argument) for argument in arguments]))


def run_command(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    timeout: float = 600,
    server: str = "plugin",
    started: Callable[[int], None] | None = None,
) -> Finished:
    """Runs ``command[0]`` from this interpreter's folder; ``environment`` is added to the inherited one.

    Args:
        server: what forks fairseq's commands (``fork_server``): "plain" has not imported this package.
        started: called with the process id of a forked command.
    """
    program, *arguments = map(str, command)
    beside = Path(sys.executable).parent / program
    inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    inherited = {**inherited, "OMP_NUM_THREADS": "1", **(environment or {})}
    if program in PROGRAMS:
        options = {"cwd": cwd, "environment": inherited, "timeout": timeout, "started": started, "server": server}
        return Finished(*run_forked(program, arguments, **options))
    finished = subprocess.run(
        [str(beside) if beside.exists() else program, *arguments],
        cwd=cwd,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def run_fairseq_train(
    data: Path | str,
    save_dir: Path,
    *options: str | Path,
    program: Sequence[str | Path] = ("fairseq-train",),
    user_dir: Path | str = PACKAGE,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    server: str | None = None,
    started: Callable[[int], None] | None = None,
) -> Finished:
    """Trains ``mlm_tiny`` for two updates; later options win over those given here."""
    defaults = TINY_TRAINING.split()
    places = ["--user-dir", user_dir, "--save-dir", save_dir]
    command = [*program, data, *places, *defaults, *options]
    server = server or ("plugin" if user_dir == PACKAGE else "plain")
    return run_command(command, cwd=cwd, environment=environment, server=server, started=started)


def kill_when(hit: Callable[[], bool]) -> Callable[[int], None]:
    """A ``started`` that ends the command, and all that it has started, by kill -9 as soon as ``hit()``."""

    def watch(pid: int) -> None:
        while Path(f"/proc/{pid}").exists():
            with suppress(OSError):  # what it looks for is just being renamed; or who it was has just ended
                if hit():
                    os.killpg(pid, signal.SIGKILL)
                    return
            time.sleep(0.002)

    return lambda pid: threading.Thread(target=watch, args=(pid,), daemon=True).start()


def train_here(data: Path | str, save_dir: Path, *options: str | Path) -> int:
    """The exit status of ``run_fairseq_train``, in this process: no imports, and a debugger reaches it."""
    from fairseq import options as fairseq_options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.distributed import utils as distributed_utils
    from fairseq_cli.train import main

    words = [data, "--user-dir", PACKAGE, "--save-dir", save_dir, *TINY_TRAINING.split(), *options]
    parser = fairseq_options.get_training_parser()
    cfg = convert_namespace_to_omegaconf(fairseq_options.parse_args_and_arch(parser, list(map(str, words))))
    return status_of(lambda: distributed_utils.call_main(cfg, main) or 0)


def status_of(main: Callable[[], int]) -> int:
    """The exit status of a command called in this process, whether it returns it or exits with it."""
    try:
        return main()
    except SystemExit as stop:
        return stop.code


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The parameters of the last checkpoint in a folder."""
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


def logged_values(stdout: str) -> list[dict[str, str]]:
    """What a training with ``--log-format json`` printed, in order."""
    return [json.loads(found) for found in re.findall(r"\| (?:train_inner|valid) \| (\{.*)", stdout)]


def assert_ok(finished: Finished) -> None:
    """The command ended well; else the ends of both streams are shown."""
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]


def error_lines(finished: Finished) -> list[str]:
    """The lines that the plugin shows a user."""
    return [line for line in finished.stderr.splitlines() if line.startswith("fairseq_masking: error: ")]


def assert_one_line_error(finished: Finished, *expected: str) -> None:
    """One line that says all of ``expected``, no traceback in either stream, status 1."""
    lines = error_lines(finished)
    assert len(lines) == 1, finished.stderr[-4000:]
    assert "Traceback" not in finished.stderr + finished.stdout
    assert finished.returncode == 1
    for part in expected:
        assert part in lines[0]
