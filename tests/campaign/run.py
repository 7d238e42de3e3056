"""The campaign: each case in a process of its own, forked from this one, which has imported everything.

    python tests/campaign/run.py [--only WORDS] [--sample N --seed S] [--inputs DIR] [--out CSV]

It prints what did not end as it should (CAMPAIGN_LINES of what it said), and the counts; status 1 if there is any.
results.csv has the last whole run.
"""

import argparse
import csv
import gc
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from fork_server import interpreter_status  # noqa: E402
from hydra_cache import read_overrides  # noqa: E402
from rules import TRAIN, Case, break_file, cases, make_inputs  # noqa: E402

PROGRAMS = {"fairseq-train": "train", "fairseq-validate": "validate", "fairseq-hydra-train": "hydra_train"}
_MAY_STAY = ("output", "out/checkpoints", "out/outputs")  # what it printed, and Hydra's own log of it
KINDS = ("line", "cause not named", "no line", "several lines", "traceback", "silent", "hang", "left-overs")
SECONDS = 60  # of CPU, and ten times as many of the clock: a hang


class Verdict(NamedTuple):
    """How a case ended: "line", or what is wrong with it; and what it said."""

    kind: str
    case: Case
    output: str


def judge(case: Case, inputs: Path) -> Verdict:
    """Run a case on a copy of the inputs."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        places = {"in": Path(scratch) / "in", "out": Path(scratch) / "out"}
        shutil.copytree(inputs, places["in"], copy_function=os.link)
        places["out"].mkdir()
        if case.file:
            break_file(places["in"] / case.file, case.damage, random.Random(case.name))
        words = [word.replace("{in}", str(places["in"])).replace("{out}", str(places["out"])) for word in case.words]
        before = _listing(Path(scratch))
        status, output = _run(words, places["out"], Path(scratch) / "output")
        left = sorted(name for name in _listing(Path(scratch)) - before if not name.startswith(_MAY_STAY))
    lines = [line for line in output.splitlines() if re.match(r"[\w. -]+: error: ", line)]
    if status is None:
        kind = "hang"
    elif "Traceback (most recent call last)" in output or status < 0:
        kind = "traceback"
    elif status == 0:
        kind = "silent"
    elif len(lines) != 1:
        kind = "no line" if not lines else "several lines"
    elif not any(name.replace("{in}", str(places["in"])) in lines[0] for name in case.named):
        kind = "cause not named"
    elif left:
        kind, output = "left-overs", f"{output}\nleft: {left}"
    else:
        kind = "line"
    return Verdict(kind, case, output)


def _listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _run(words: Sequence[str], out: Path, output: Path) -> tuple[int | None, str]:
    pid = os.fork()
    if pid == 0:
        _become(list(words), out, output)
    deadline = time.monotonic() + 10 * SECONDS
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended[0] == 0:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(ended[1]) if ended[0] else None
    return None if status == -signal.SIGXCPU else status, output.read_text(encoding="utf-8", errors="replace")


def _become(words: list[str], out: Path, output: Path) -> None:
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(out)
        status = interpreter_status(lambda: _command(words, out))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _command(words: list[str], out: Path) -> int:
    program, *arguments = words
    if program not in PROGRAMS:
        from fairseq_masking.cli.main import main

        return main(words)
    import importlib

    from commands import PACKAGE, TINY_TRAINING

    tiny, short = TINY_TRAINING, list(TRAIN)
    if "sentence_prediction" in words:  # whose rows are as long as they are, and which validates
        tiny, short = tiny.replace("--tokens-per-sample 32", ""), short[: short.index("--disable-validation")]
    if program == "fairseq-train":
        arguments = [*tiny.split(), "--user-dir", str(PACKAGE), "--save-dir", str(out / "save"), *short, *arguments]
    elif program == "fairseq-validate":
        arguments += ["--user-dir", str(PACKAGE)]
    elif "--config-dir" not in arguments:
        arguments = ["--config-dir", str(PACKAGE.parent / "configs" / "pretrain"), *arguments, "common.cpu=true"]
        arguments += ["optimization.max_update=1"] if not any("max_update" in word for word in arguments) else []
    sys.argv = [program, *arguments]
    importlib.import_module(f"fairseq_cli.{PROGRAMS[program]}").cli_main()
    return 0


def run(chosen: Sequence[Case], inputs: Path | None = None) -> list[Verdict]:
    """Judge cases, in order, on copies of inputs that are made once (or that lie in ``inputs``)."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        made = inputs or Path(scratch)
        if not (made / "prepared_squad").exists():
            made.mkdir(parents=True, exist_ok=True)
            make_inputs(made)
        read_overrides("--task masked_pretraining --arch mlm_tiny --criterion mlm")
        gc.collect()
        gc.freeze()  # what every case shares
        verdicts = [_told(judge(case, made)) for case in chosen]
        gc.unfreeze()
        return verdicts


def _told(verdict: Verdict) -> Verdict:
    if verdict.kind != "line":
        lines = verdict.output.strip().splitlines()[-int(os.environ.get("CAMPAIGN_LINES", "2")) :]
        print(f"{verdict.kind}: {verdict.case.name}\n    {' | '.join(lines)[-2000:]}", flush=True)
    return verdict


def write_counts(verdicts: Sequence[Verdict], path: Path, seconds: float) -> None:
    """By command and by what was broken."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        case = verdict.case
        command = " ".join(itertools.takewhile(lambda word: word[0] not in "-/{", case.words))
        counts[command, "files" if case.file else "options"][verdict.kind] += 1
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(
            f"# {date.today()}, commit {commit.strip()}, {seconds:.0f} s of the clock on {os.cpu_count()} cores\n"
        )
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["command", "broken", "cases", *KINDS])
        for (command, broken), by_kind in sorted(counts.items()):
            writer.writerow([command, broken, by_kind.total(), *(by_kind[kind] for kind in KINDS)])


def main() -> int:
    """Run what was asked for; tell what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases with these words in their names")
    parser.add_argument("--sample", type=int, help="so many, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=Path, help="keep the whole inputs there, or take those")
    parser.add_argument("--out", type=Path, help="counts by command")
    args, begin = parser.parse_args(), time.monotonic()
    chosen = [case for case in cases() if args.only in case.name]
    if args.sample is not None:
        chosen = random.Random(args.seed).sample(chosen, min(args.sample, len(chosen)))
    verdicts = run(chosen, args.inputs)
    counts = Counter(verdict.kind for verdict in verdicts)
    if args.out:
        write_counts(verdicts, args.out, time.monotonic() - begin)
    print(f"{len(verdicts)} cases: " + ", ".join(f"{number} {kind}" for kind, number in counts.most_common()))
    return int(set(counts) != {"line"})


if __name__ == "__main__":
    import fairseq_cli.hydra_train
    import fairseq_cli.train
    import fairseq_cli.validate  # noqa: F401

    import fairseq_masking

    fairseq_masking.register()
    sys.exit(main())
