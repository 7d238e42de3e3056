"""A file system that is full: a training on a small tmpfs, with so much room that it fills at every byte in turn.

    python tests/campaign/full.py [--step 4096]        (as root, who may mount one)

With each room the training ends by itself, or in one line, status 1; the newest whole checkpoint is named, if there is
one, the same command goes on from it, with room, to the weights of a training that always had it; no .tmp stays. Once
as it is, and once blind to the room that there is, so that each write fails by itself.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from commands import train_here, weights, write_corpus  # noqa: E402

OPTIONS = ("--save-interval-updates", "1", "--max-update", "3", "--disable-validation", "--encoder-layers", "1",
           "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "16", "--max-positions", "64",
           "--encoder-attention-heads", "2")  # fmt: skip
SIZE = 4 << 20


def end(data: Path, folder: Path) -> tuple[int, str]:
    """Status and errors of a training."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = train_here(data, folder, *OPTIONS)
    return status, errors.getvalue()


def main() -> int:
    """Fill it; tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=4096, help="bytes between two rooms that are tried")
    args = parser.parse_args()
    wrong, ends = 0, Counter()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        data, whole, disk = (Path(scratch) / name for name in ("data", "whole", "disk"))
        for folder in (data, disk):
            folder.mkdir()
        write_corpus(data, {"train": 600, "valid": 60})
        assert end(data, whole)[0] == 0
        taken = sum(path.stat().st_size for path in whole.iterdir())
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], check=True)
        stack.callback(subprocess.run, ["umount", disk], check=True)
        for blind in (False, True):
            for room in range(0, taken + 2 * args.step, args.step):
                shutil.rmtree(disk / "run", ignore_errors=True)
                with (disk / "filler").open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, SIZE - room)
                with contextlib.ExitStack() as patches:
                    if blind:
                        patches.enter_context(mock.patch("shutil.disk_usage", lambda _: SimpleNamespace(free=1e12)))
                    status, errors = end(data, disk / "run")
                (disk / "filler").unlink()
                lines = [line for line in errors.splitlines() if "error:" in line]
                there = sorted(path.name for path in disk.glob("run/*"))
                last = re.search(r"the last whole one is (\S+);", errors)
                kind = re.sub(r"\S*/|\d[\d.e-]*", "", lines[0]).partition(":")[2][:70] if lines else "done"
                ends[f"{'blind, ' if blind else ''}{kind}"] += 1
                faults = [
                    *(["traceback"] if "Traceback" in errors else []),
                    *(
                        [f"{len(lines)} lines, status {status}"]
                        if (len(lines), status) not in ((0, 0), (1, 1))
                        else []
                    ),
                    *(
                        [f"left {there}"]
                        if any(name.endswith(".tmp") or name == ".training" for name in there)
                        else []
                    ),
                    *([f"{last[1]} is not there"] if last and not Path(last[1]).exists() else []),
                ]
                if not faults and (end(data, disk / "run")[0] or not same(weights(disk / "run"), weights(whole))):
                    faults.append("does not go on to the same weights")
                wrong += bool(faults)
                if faults:
                    print(f"{room} bytes{', blind' if blind else ''}: {faults}\n{errors[-1500:]}", flush=True)
    for kind, number in ends.items():
        print(f"{number:5} {kind}")
    print(f"{ends.total()} trainings, {wrong} wrong")
    return int(wrong > 0)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """To the bit."""
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


if __name__ == "__main__":
    sys.exit(main())
