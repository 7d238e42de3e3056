"""Random kills: every method, by SIGKILL, SIGTERM and SIGUSR1, at odd moments and while a checkpoint is written.

    python tests/campaign/kills.py [--trials 100] [--seed 0]

A trial ends a training again and again; what it ends with has to be the uninterrupted one's weights, to the bit.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from commands import run_fairseq_train, weights, write_corpus  # noqa: E402

METHODS = {
    "mlm": (),
    "fully_explored": ("--criterion", "fully_explored_mlm", "--mask-splits", "4", "--batch-size", "8"),
    "map_net": ("--arch", "map_net_tiny", "--criterion", "map_net"),
    "three_ml": ("--arch", "three_ml_tiny"),
    "amos": ("--arch", "amos_tiny", "--criterion", "amos"),
}
LAST = "checkpoint_last.pt"
UPDATES = 24
OPTIONS = ("--max-update", str(UPDATES), "--save-interval-updates", "1", "--keep-interval-updates", "2",
           "--dropout", "0.1", "--disable-validation", "--log-interval", "100")  # fmt: skip
WAYS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGUSR1: 138}


def end(way: int, moment: float | str, folder: Path):
    """A ``started`` that sends a signal while a checkpoint is written, or some seconds after a new one."""
    before = _newest(folder)

    def watch(pid: int) -> None:
        seen = None
        while Path(f"/proc/{pid}").exists():
            if seen is None and _newest(folder) != before:
                seen = time.monotonic()
            late = seen is not None and moment != "saving" and time.monotonic() - seen > moment
            if late or (seen is not None and moment == "saving" and list(folder.glob("*.tmp"))):
                with suppress(ProcessLookupError):
                    os.killpg(pid, way)
                return
            time.sleep(0.0005)

    return lambda pid: threading.Thread(target=watch, args=(pid,), daemon=True).start()


def _newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.glob(LAST)), default=0.0)


def _updates(folder: Path) -> int:
    return torch.load(folder / LAST, weights_only=True)["optimizer_history"][-1]["num_updates"]


def main() -> int:
    """Make the trials; say how each ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, wrong, kills = random.Random(args.seed), 0, Counter()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        data.mkdir()
        write_corpus(data, {"train": 600, "valid": 60})
        whole: dict[str, dict[str, torch.Tensor]] = {}
        trial = 0
        while kills.total() < args.trials:
            name = list(METHODS)[trial % len(METHODS)]
            if name not in whole:
                folder = Path(scratch) / name
                assert run_fairseq_train(data, folder, *OPTIONS, *METHODS[name]).returncode == 0
                whole[name] = weights(folder)
            folder, trial = Path(scratch) / f"trial{trial}", trial + 1
            for _ in range(3):
                way = rng.choice(list(WAYS))
                moment = rng.choice(["saving", rng.uniform(0, 1)])
                started = end(way, moment, folder)
                workers = ("--num-workers", str(rng.randrange(3)))
                done = run_fairseq_train(data, folder, *OPTIONS, *METHODS[name], *workers, started=started)
                # 0, and a signal's own end: it was faster, and the training was over
                whole_already = (folder / LAST).exists() and _updates(folder) == UPDATES
                ended_well = done.returncode == WAYS[way] or (done.returncode in (0, -way) and whole_already)
                if done.returncode:
                    kills[
                        f"{signal.Signals(way).name} {'while it saved' if moment == 'saving' else 'at a moment'}"
                    ] += 1
                wrong += not ended_well
                print(f"{name} {signal.Signals(way).name} at {moment}: {done.returncode}", flush=True)
            done = run_fairseq_train(data, folder, *OPTIONS, *METHODS[name])
            now = weights(folder)
            same = done.returncode == 0 and all(torch.equal(now[key], value) for key, value in whole[name].items())
            left = [path.name for path in folder.iterdir() if path.suffix not in (".pt", ".log")]
            wrong += not same or bool(left)
            print(
                f"{name}: {'the same to the bit' if same else 'ANOTHER END'}{f', left {left}' if left else ''}",
                flush=True,
            )
    print(f"{kills.total()} kills ({', '.join(f'{number} {way}' for way, number in kills.items())}), {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
