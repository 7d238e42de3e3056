"""What AMOS costs an update: measured beside plain masked language modelling, and computed in FLOPs.

Training steps through the real Trainer, all in turns: ``mlm`` with the same encoder, relative positions among
it, and without these; ``amos`` with the heads of its size; and with one, as ELECTRA with a shallow generator,
at the first of these layers and at the last. "Over mlm" are ratios to the first. The issue asks for 350,000
tokens a second of base on one H200 (512 tokens, bf16).

    python scripts/bench/amos_cost.py --data DATA --arch tiny --tokens 128 --rows 32
    python scripts/bench/amos_cost.py --data DATA --arch base --tokens 512 --rows 64 --precision bf16 \\
        --device cuda --variants fused_adamw
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import common as bench
import torch
from systems import OURS, VARIANTS, Run, Setting

from fairseq_masking.figures.tables import format_table
from fairseq_masking.measure.flops import amos_flops, encoder_flops, shape_of
from fairseq_masking.methods.amos.model import GENERATOR_LAYERS
from fairseq_masking.methods.base.options import SIZES

BASELINE, PLAIN = "mlm", "mlm, no relative positions"
TARGET = ("base", 512, "bf16", 350_000)  # tokens a second of AMOS on one H200
WARM_UP, STEPS_OF_MEMORY = 2, 4


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = bench.bench_parser(__doc__, steps=5, turns=6, out="scripts/bench/results/amos_cost.csv")
    parser.add_argument("--arch", default="tiny", choices=SIZES, help="shape of the encoder")
    parser.add_argument("--tokens", type=int, default=128, help="tokens a row")
    parser.add_argument("--rows", type=int, default=32, help="rows a batch")
    parser.add_argument("--variants", nargs="*", default=[], help="for all alike, see systems.py")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (on a CPU)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--append", action="store_true", help="keep the rows that --out has")
    return parser.parse_args(argv)


def contenders(arch: str) -> dict[str, tuple[int, ...]]:
    """Return the depths of each system's heads; none of mlm's."""
    depths = tuple(GENERATOR_LAYERS[arch]["generator_layers"])
    choices = (depths, depths[:1], depths[-1:])
    return {BASELINE: (), PLAIN: (), **{f"amos, heads at {','.join(map(str, chosen))}": chosen for chosen in choices}}


def system_of(args: argparse.Namespace, name: str) -> str:
    """Register a contender's options; return its name as ``systems.py`` has it."""
    depths, variant = contenders(args.arch)[name], name.replace(" ", "_")
    VARIANTS[variant] = ("--relative-position", "none" if name == PLAIN else "t5")
    if depths:
        VARIANTS[variant] += (
            "--arch", f"amos_{args.arch}", "--criterion", "amos", "--leave-unmasked-prob", "0",
            "--random-token-prob", "0", "--generator-layers", ",".join(map(str, depths)),
        )  # fmt: skip
    return "+".join([OURS, *args.variants, variant])


def computed(setting: Setting, depths: Sequence[int], vocabulary: int) -> int:
    """FLOPs of a sequence, forward."""
    shape = shape_of(SIZES[setting.arch], vocabulary)
    if not depths:
        return encoder_flops(shape, setting.tokens, setting.num_masked)
    return amos_flops(shape, depths, num_tokens=setting.tokens, num_masked=setting.num_masked)


def measure(args: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """Return a row of the CSV for each contender."""
    peaks: dict[str, float] = {}
    matmul_peaks: list[float] = []
    with tempfile.TemporaryDirectory() as save_dir:
        runs = {}
        for name in contenders(args.arch):
            before = torch.cuda.memory_allocated() if args.device == "cuda" else 0
            run = runs[name] = Run(setting, system_of(args, name), save_dir)
            _steps(run, WARM_UP)  # what is compiled is compiled here
            if args.device == "cuda":
                peaks[name] = bench.added_memory(lambda run=run: _steps(run, WARM_UP), "cuda", before)
        vocabulary = runs[BASELINE].vocab_size
        seconds = bench.take_turns(
            {name: run.step for name, run in runs.items()},
            steps=args.steps,
            turns=args.turns,
            between=lambda: matmul_peaks.append(bench.matmul_peak(args.device, args.precision)),
        )
    if args.device == "cpu" and not args.no_memory:
        for name in runs:
            child = [*setting.arguments(), "--variants", *args.variants, "--memory-of", name]
            peaks[name] = bench.memory_of_child(__file__, child)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = []
    for name, depths in contenders(args.arch).items():
        flops, baseline = (computed(setting, chosen, vocabulary) for chosen in (depths, ()))
        row = {"system": name, **setting.columns(), "vocabulary": vocabulary}
        row |= {"variants": "+".join(args.variants), **bench.milliseconds(seconds[name], "step_")}
        row |= {
            "tokens_per_s": round(setting.tokens * setting.rows / medians[name]),
            "time_over_mlm": round(medians[name] / medians[BASELINE], 3),
            "flops_over_mlm": round(flops / baseline, 3),
        }
        row |= bench.utilisation(
            3 * setting.rows * flops, medians[name], statistics.median(matmul_peaks), args.device, args.precision
        )
        row["peak_mib"] = round(peaks[name], 1) if name in peaks else ""
        row["peak_over_mlm"] = round(peaks[name] / peaks[BASELINE], 3) if peaks else ""
        rows.append({**row, **bench.environment(args.device)})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    header = ["system", "step, ms", "tokens/s", "time over mlm", "FLOPs over mlm", "peak MiB", "over mlm"]
    cells = [
        [
            row["system"],
            f"{row['step_ms']:.1f} ({row['step_quartiles_ms']})",
            f"{row['tokens_per_s']:,}",
            *(str(row[name]) for name in ("time_over_mlm", "flops_over_mlm", "peak_mib", "peak_over_mlm")),
        ]
        for row in rows
    ]
    return format_table(header, cells)


def _steps(run: Run, count: int) -> None:
    for _ in range(count):
        run.step()


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    sys.argv = sys.argv[:1]  # fairseq's parsers look at it
    setting = Setting(args.data, args.arch, args.tokens, args.rows, args.precision, args.device)
    if args.memory_of:
        with tempfile.TemporaryDirectory() as save_dir:
            run = Run(setting, system_of(args, args.memory_of), save_dir, num_batches=4)
            bench.report_memory(lambda: _steps(run, STEPS_OF_MEMORY))
        return
    rows = measure(args, setting)
    bench.write_csv(args.out, [*(bench.read_csv(args.out) if args.append else []), *rows])
    print(table(rows))
    arch, tokens, precision, least = TARGET
    if args.device == "cuda" and (args.arch, args.tokens, args.precision) == (arch, tokens, precision):
        print(f"{rows[2]['system']}: tokens_per_s {rows[2]['tokens_per_s']}, target >= {least}")


if __name__ == "__main__":
    main()
