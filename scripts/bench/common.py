"""What the benchmarks share: turns, peaks, memory, and what is written beside every number.

Contenders take turns in one process, so that the machine's mood hits all alike. Peak memory is that of one
contender: on a CPU in a process of its own, on a GPU above what stood there before it was built.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fairseq_masking
from fairseq_masking.figures.tables import environment

__all__ = [
    "PRECISIONS",
    "added_memory",
    "bench_parser",
    "datasheet_peak",
    "environment",
    "matmul_peak",
    "memory_of_child",
    "milliseconds",
    "read_csv",
    "report_memory",
    "seconds_of",
    "synchronize",
    "take_turns",
    "train_once",
    "utilisation",
    "write_corpus",
    "write_csv",
]

# The console script may be missing where fairseq was carried as a wheel.
FAIRSEQ_TRAIN = "import sys; from fairseq_cli.train import cli_main; sys.exit(cli_main())"

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Dense FLOP/s of the SXM parts by NVIDIA's datasheets: (part of the device's name, precisions, peak).
_DATASHEET = (
    ("H200", ("bf16", "fp16"), 989e12),
    ("H100", ("bf16", "fp16"), 989e12),
    ("A100", ("bf16", "fp16"), 312e12),
    ("V100", ("fp16",), 125e12),
)


def bench_parser(
    description: str | None, *, steps: int, turns: int | None = None, out: str, data: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark that lets contenders take turns.

    Args:
        steps, turns, out: defaults of the options of these names; without turns there is no such option.
        data: it trains on a prepared corpus.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    if data:
        add("--data", default=".quickstart/data", help="prepared corpus")
    add("--precision", default="fp32", choices=PRECISIONS)
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--steps", type=int, default=steps, help="steps that are measured, a turn where there are turns")
    if turns is not None:
        add("--turns", type=int, default=turns, help="turns of each contender; the first warms up")
    add("--threads", type=int, default=1, help="CPU threads")
    add("--out", default=out)
    return parser


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rows``, all with the same keys; called after each row, so that a killed run leaves its rows."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV, none where there is no such file."""
    if not Path(path).exists():
        return []
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def mean_and_spread(values: Sequence[float], mean: str = ".3f", spread: str = ".3f") -> str:
    """Write mean and, of more than one value, standard deviation."""
    deviation = f" +- {statistics.stdev(values):{spread}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{mean}}{deviation}"


def synchronize() -> None:
    """Wait until the GPU, where there is one, has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the seconds that ``run`` takes, those of the GPU included."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def take_turns(
    runs: Mapping[str, Callable[[], Any]], *, steps: int, turns: int, between: Callable[[], Any] = lambda: None
) -> dict[str, list[float]]:
    """Return the seconds of each run of each contender; the first of ``turns`` warms up and is left out.

    ``between`` is called at the end of every turn, for what is to be measured under the same conditions.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns):
        for name in list(runs) if turn % 2 else list(runs)[::-1]:
            times = _seconds_of_each(runs[name], steps)
            if turn:
                seconds[name] += times
        between()
    return seconds


def _seconds_of_each(run: Callable[[], Any], count: int) -> list[float]:
    """Return the seconds of ``count`` runs, one behind the other: a GPU is not waited for between them."""
    if not torch.cuda.is_initialized():
        return [seconds_of(run) for _ in range(count)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    synchronize()
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in itertools.pairwise(marks)]


def milliseconds(seconds: Sequence[float], prefix: str = "") -> dict[str, Any]:
    """Return median and quartiles of ``seconds`` for a row of a CSV."""
    low, median, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return {f"{prefix}ms": round(1000 * median, 3), f"{prefix}quartiles_ms": f"{1000 * low:.3f}-{1000 * high:.3f}"}


def matmul_peak(device: str, precision: str) -> float:
    """Return the FLOP/s of a large matrix product on random data, the median of a few."""
    size = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(PRECISIONS[precision]) for _ in range(2))
    times = [seconds_of(lambda: left @ right) for _ in range(8)]
    return 2 * size**3 / statistics.median(times[2:])


def datasheet_peak(device: str, precision: str) -> float | None:
    """Return the GPU's dense FLOP/s by its datasheet, None where this table does not know it."""
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, kinds, peak in _DATASHEET if part in name and precision in kinds), None)


def utilisation(flops: int, seconds: float, peak: float, device: str, precision: str) -> dict[str, Any]:
    """Return the columns of model FLOPs utilisation; ``peak`` is ``matmul_peak``'s of the same run."""
    datasheet = datasheet_peak(device, precision)
    return {
        "gflop_per_step": round(flops / 1e9, 3),
        "matmul_peak_tflops": round(peak / 1e12, 4),
        "utilisation_of_matmul_peak": round(flops / seconds / peak, 4),
        "utilisation_of_datasheet": round(flops / seconds / datasheet, 4) if datasheet else "",
    }


def memory_of_child(script: str, arguments: Iterable[str]) -> float:
    """Return the MiB that ``script`` reports with ``report_memory`` when run with ``arguments``."""
    command = [sys.executable, script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])["mib"]


def report_memory(run: Callable[[], Any]) -> None:
    """Print, for ``memory_of_child``, the MiB that ``run`` adds at its peak to this process."""
    print(json.dumps({"mib": added_memory(run, "cpu")}))


def added_memory(run: Callable[[], Any], device: str, before: int | None = None) -> float:
    """Return the MiB that ``run`` adds at its peak to what is held now (GPU: to ``before`` bytes)."""
    if device == "cuda":
        before = torch.cuda.memory_allocated() if before is None else before
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    held = _memory_status("VmRSS")
    run()
    return _memory_status("VmHWM") - held


def _memory_status(field: str) -> float:
    """Return a figure of /proc/self/status in MiB; getrusage's peak may be the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def train_once(folder: Path, options: Sequence[str], *, finished: str = "finished") -> None:
    """Run fairseq-train with ``options`` on one CPU thread, its output in ``folder``/train.log.

    Does nothing where the file ``finished`` says that this was done before.
    """
    if (folder / finished).exists():
        return
    package = Path(fairseq_masking.__file__).parent
    command = [sys.executable, "-c", FAIRSEQ_TRAIN, "--user-dir", str(package), "--save-dir", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.log").open("w") as log:
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, *options], check=True, stdout=log, stderr=log, env=environ)
    (folder / finished).touch()


def write_corpus(
    folder: Path, num_symbols: int, num_sentences: int = 8_000, splits: Sequence[str] = ("train",)
) -> Path:
    """Write sentences of 25 tokens on average, drawn by Zipf's law; 70% of the symbols start a word."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    starts = rng.random(num_symbols - 5) < 0.7
    with (folder / "dict.txt").open("w", encoding="utf-8") as file:
        for number, start in enumerate(starts):
            file.write(f"{chr(0x2581) if start else ''}w{number} 1\n")
        file.write("<mask> 0\n")
    for split in splits:
        count = num_sentences if split == "train" else max(1, num_sentences // 50)
        builder = MMapIndexedDatasetBuilder(str(folder / f"{split}.bin"), dtype=np.uint16)
        for size in rng.integers(5, 45, size=count):
            ids = 4 + (rng.zipf(1.3, size=size) - 1) % (num_symbols - 5)
            builder.add_item(torch.from_numpy(np.append(ids, 2)))
        builder.finalize(str(folder / f"{split}.idx"))
    return folder
