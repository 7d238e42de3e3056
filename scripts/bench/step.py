"""Time and peak memory of a training step: ours against stock fairseq, through the real Trainer, in one run.

All systems take turns in one process, on batches from their own task over the same corpus, so that the
machine's mood hits all alike; the parts of a step are timed in turns of their own. On a CPU peak memory is
measured in a process of its own for each. Beside them stands the bare time of the step's matrix products,
timed at the same moment, which no version can beat, and the model FLOPs utilisation: the FLOPs of
``analysis/flops.py`` over time and peak, the peak being that of a large matrix product in this run and, where
known, that of the GPU's datasheet.

    python scripts/bench/step.py --data DATA --arch small --tokens 128 512 --rows 32 8
    python scripts/bench/step.py --data DATA --arch base large --tokens 512 --rows 64 32 --precision bf16 \\
        --device cuda --systems fairseq_masking+eager fairseq_masking stock_fairseq
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import common as bench
import torch
from systems import PARTS, STOCK, Run, Setting, check_systems

from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.modules.config import FEED_FORWARDS

# (arch, tokens, precision): column and least value wanted of one H200 (issue 3).
TARGETS = {("base", 512, "bf16"): ("tokens_per_s", 650_000), ("large", 512, "bf16"): ("rows_per_s", 375)}
SPEED_OVER_STOCK_TARGET = 2.0
STEPS_OF_MEMORY = 4


def systems_parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark that compares systems through the Trainer."""
    parser = bench.bench_parser(description, **defaults)
    parser.add_argument("--systems", nargs="+", default=["fairseq_masking", STOCK], help="see systems.py")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (on a CPU)")
    parser.add_argument("--append", action="store_true", help="keep the rows that --out has")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = systems_parser(__doc__, steps=10, turns=5, out="scripts/bench/results/step.csv")
    parser.add_argument("--arch", nargs="+", default=["small"], choices=SIZES, help="shape of the encoder")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512], help="tokens a row")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[32, 8], help="rows a batch, one for each of --tokens or --arch"
    )
    parser.add_argument("--part-steps", type=int, default=5, help="steps for the times of parts; 0: none")
    parser.add_argument("--no-bound", action="store_true", help="leave out the bare matrix products")
    return parser.parse_args(argv)


def settings_of(args: argparse.Namespace) -> list[Setting]:
    """Pair ``--arch``, ``--tokens`` and ``--rows``; one that is given once holds for all."""
    columns = [args.arch, args.tokens, args.rows]
    count = max(map(len, columns))
    if any(len(column) not in (1, count) for column in columns):
        raise SystemExit(f"give one or {count} values for each of --arch, --tokens and --rows")
    spread = [column * count if len(column) == 1 else column for column in columns]
    return [Setting(args.data, *values, args.precision, args.device) for values in zip(*spread, strict=True)]


def compare(
    setting: Setting,
    systems: list[str],
    *,
    steps: int,
    turns: int,
    part_steps: int = 0,
    bound: bool = False,
    memory: bool = True,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row of the CSV for each system that works here, and the names of those that do not."""
    with tempfile.TemporaryDirectory() as save_dir:
        runs, peaks, failed = {}, {}, []
        for name in systems:
            before = torch.cuda.memory_allocated() if setting.device == "cuda" else 0
            try:
                run = Run(setting, name, save_dir)
                _steps(run, 2)  # what is compiled is compiled here
            except (Exception, SystemExit) as error:  # one that does not work must not cost the others' numbers
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                failed.append(name)
                continue
            runs[name] = run
            if setting.device == "cuda":
                peaks[name] = bench.added_memory(lambda run=run: _steps(run, 2), "cuda", before)
        bounds: list[float] = []
        contenders: dict[str, Callable[[], Any]] = {name: run.step for name, run in runs.items()}
        vocabulary = next(iter(runs.values())).vocab_size if runs else 0
        peaks_of_device: list[float] = []

        def between() -> None:
            peaks_of_device.append(bench.matmul_peak(setting.device, setting.precision))
            if bound:
                bounds.append(matrix_products(setting, vocabulary))

        seconds = bench.take_turns(contenders, steps=steps, turns=turns, between=between)
        parts = {name: run.parts(part_steps + 1)[1:] for name, run in runs.items()} if part_steps else {}
    if setting.device == "cpu" and memory:
        for name in (name for name in runs if "compile" not in name):  # compiling takes more than the step
            step = str(Path(__file__).with_name("step.py"))
            peaks[name] = bench.memory_of_child(step, [*setting.arguments(), "--memory-of", name])
    peak = statistics.median(peaks_of_device)
    rows = []
    for name in runs:
        median = statistics.median(seconds[name])
        row = {"system": name, **setting.columns(), "vocabulary": vocabulary}
        row |= bench.milliseconds(seconds[name], "step_")
        row |= {
            "tokens_per_s": round(setting.tokens * setting.rows / median),
            "rows_per_s": round(setting.rows / median, 2),
            "speed_over_stock": round(statistics.median(seconds[STOCK]) / median, 3) if STOCK in runs else "",
        }
        for part in (*PARTS, "whole") if part_steps else ():
            row[f"{part}_ms"] = round(1000 * statistics.median(times[part] for times in parts[name]), 3)
        if bound:
            row["matmul_bound_ms"] = round(1000 * statistics.median(bounds), 3)
            row["times_bound"] = round(median / statistics.median(bounds), 3)
        row |= bench.utilisation(setting.flops(vocabulary), median, peak, setting.device, setting.precision)
        row["peak_mib"] = round(peaks[name], 1) if name in peaks else ""
        rows.append({**row, **bench.environment(setting.device)})
        print({key: row[key] for key in row if "quartiles" not in key}, flush=True)
    return rows, failed


def _steps(run: Run, count: int) -> None:
    for _ in range(count):
        run.step()


def matrix_products(setting: Setting, vocabulary: int) -> float:
    """Return the seconds that a step's matrix products take on their own: forward once, backward twice."""
    size, device = SIZES[setting.arch], setting.device
    width, inner, heads = size.encoder_embed_dim, size.encoder_ffn_embed_dim, size.encoder_attention_heads
    rows, tokens = setting.rows, setting.tokens
    places, masked = rows * tokens, rows * setting.num_masked
    shapes = [  # (batch, m, k, n), times in a step's forward pass
        ((1, places, width, 3 * width), size.encoder_layers),
        ((1, places, width, width), size.encoder_layers),
        ((1, places, width, inner * FEED_FORWARDS[getattr(size, "feed_forward", "mlp")]), size.encoder_layers),
        ((1, places, inner, width), size.encoder_layers),
        ((rows * heads, tokens, width // heads, tokens), size.encoder_layers),
        ((rows * heads, tokens, tokens, width // heads), size.encoder_layers),
        ((1, masked, width, width), 1),
        ((1, masked, width, vocabulary), 1),
    ]
    total = 0.0
    for (batch, m, k, n), count in shapes:
        left, right, product = (
            torch.randn(batch, *shape, device=device).to(bench.PRECISIONS[setting.precision])
            for shape in ((m, k), (k, n), (m, n))
        )
        triple = ((left, right), (product, right.transpose(1, 2)), (left.transpose(1, 2), product))
        for a, b in triple:
            times = [bench.seconds_of(lambda a=a, b=b: torch.bmm(a, b)) for _ in range(4)]
            total += count * statistics.median(times[1:])
    return total


def print_targets(rows: list[dict[str, Any]]) -> None:
    """Print issue 3's targets beside what was measured; they are one H200's, so on GPUs only."""
    for row in rows:
        wanted = TARGETS.get((row["arch"], row["tokens"], row["precision"]))
        if wanted and row["system"] != STOCK:
            column, least = wanted
            name = f"{row['system']} {row['arch']} {row['tokens']} {row['precision']}"
            print(f"{name}: {column} {row[column]}, target >= {least}")
            print(f"{name}: speed_over_stock {row['speed_over_stock']}, target >= {SPEED_OVER_STOCK_TARGET}")


def run_settings(
    args: argparse.Namespace, settings: list[Setting], **compared: Any
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare in each setting, writing ``--out`` after each; return all rows and what failed."""
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    kept = bench.read_csv(args.out) if args.append else []
    for setting in settings:
        found, lost = compare(setting, args.systems, steps=args.steps, turns=args.turns, **compared)
        rows += found
        failed += lost
        if rows:
            bench.write_csv(args.out, [*kept, *rows])
        if setting.device == "cuda":
            torch.cuda.empty_cache()
    if args.device == "cuda":
        print_targets(rows)
    return rows, failed


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    settings = settings_of(args)
    check_systems(args.systems)
    if args.memory_of:
        with tempfile.TemporaryDirectory() as save_dir:
            run = Run(settings[0], args.memory_of, save_dir, num_batches=4)
            bench.report_memory(lambda: _steps(run, STEPS_OF_MEMORY))
        return
    _, failed = run_settings(
        args, settings, part_steps=args.part_steps, bound=not args.no_bound, memory=not args.no_memory
    )
    if failed:
        raise SystemExit(f"these did not run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
