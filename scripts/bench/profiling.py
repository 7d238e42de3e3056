"""Where a training step's time goes: torch.profiler over steps of the real Trainer, data loading included.

Every operation's own time (on a GPU: that of its kernels) goes to one group: the outermost scope it runs in
that is listed in ``SCOPES``, else what ``OPERATIONS`` says of its name. What no operation accounts for is
Python and waiting (CPU) or a GPU without work (CUDA). On a GPU the host's waits are counted too: only
clipping and logging may have any.

    python scripts/bench/profiling.py --data DATA --arch small --tokens 128 --rows 8 --steps 50
    python scripts/bench/profiling.py --data DATA --arch base --tokens 512 --rows 64 --precision bf16 \\
        --device cuda --systems fairseq_masking fairseq_masking+eager stock_fairseq --trace trace.json.gz
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from common import bench_parser, environment, synchronize, write_csv
from systems import STOCK, Run, Setting, check_systems
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from fairseq_masking.methods.base.options import SIZES

OTHER = "other operations"
LOADING, COPYING = "bench: data loading", "bench: copy of the batch"
# (pattern of the event's name, group); the outermost event that matches decides for all that run inside.
SCOPES = (
    (rf"^{LOADING}$|^enumerate\(DataLoader\)", "data loading"),
    (rf"^{COPYING}$", "copies and syncs"),
    (r"^(optimizer|multiply-grads|clip-grads|reduce-grads)$|^Optimizer\.", "optimizer"),
    (r"(?i)LeanAttention|scaled_?dot_?product|flash_attention|efficient_attention", "attention"),
    (r"(?i)linear_?cross_?entropy|nll_loss|log_softmax|cross_entropy_loss", "loss"),
    (r"(?i)layer_?norm|gelu", "layernorm and gelu"),
    (r"(?i)dropout|MaskedScale", "dropout"),
)
# The same for what runs in none of these, by its own name or its kernel's; torch.compile names a kernel after
# what it fuses, so one with dropout and LayerNorm counts as LayerNorm.
PRODUCTS = re.compile(r"^aten::(mm|addmm|addmm_)$")  # the loss's count as matmul: stock has them outside it
PYTHON = ("forward", "backward")  # fairseq's own scopes, around what we want to see
OPERATIONS = (
    (r"flash|fmha|sdpa", "attention"),
    (r"aten::(bmm|baddbmm|matmul|linear)$|gemm|cutlass|nvjet|extern_kernels", "matmul"),
    (r"(?i)layer_?norm|gelu", "layernorm and gelu"),
    (r"(?i)dropout|aten::(random_|bernoulli_|ge)", "dropout"),
    (r"aten::_?softmax", "attention"),
    (r"(?i)multi_tensor|_foreach_|_fused_adam", "optimizer"),
    (r"aten::(item|_local_scalar_dense|pin_memory)$|[mM]emcpy|Synchronize", "copies and syncs"),
    (r"aten::(copy_|_to_copy|to|clone|contiguous)$", "copies and syncs"),
    (r"aten::(embedding|index|gather|scatter|take)", "embedding and gather"),
    (r"aten::(add|mul|sum|fill_|zero_|zeros|empty)|AccumulateGrad|Memset", "sums and fills"),
)  # fmt: skip
GROUPS = (
    "matmul", "attention", "dropout", "layernorm and gelu", "loss", "optimizer", "embedding and gather",
    "sums and fills", "data loading", "copies and syncs", OTHER,
)  # fmt: skip
SYNCS = re.compile(r"^cuda(Stream|Device|Event)Synchronize$")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = bench_parser(__doc__, steps=50, out="scripts/bench/results/profiling.csv")
    parser.add_argument("--arch", default="tiny", choices=SIZES, help="shape of the encoder")
    parser.add_argument("--tokens", type=int, default=128, help="tokens a row")
    parser.add_argument("--rows", type=int, default=8, help="rows a batch")
    parser.add_argument("--systems", nargs="+", default=["fairseq_masking", STOCK], help="see systems.py")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before those that are profiled")
    parser.add_argument("--workers", type=int, default=0, help="data loading processes")
    parser.add_argument("--trace", help="Chrome trace of the first system: a .json or .json.gz file")
    return parser.parse_args(argv)


def profiled(args: argparse.Namespace, setting: Setting, system: str) -> tuple[profile, float]:
    """Train ``--steps`` steps under the profiler; return it and the wall seconds of those steps."""
    with tempfile.TemporaryDirectory() as save_dir:
        run = Run(setting, system, save_dir, num_batches=1, num_workers=args.workers)
        trainer = run.trainer
        prepare = trainer._prepare_sample

        def prepare_sample(*sample: Any, **options: Any) -> Any:
            with record_function(COPYING):
                return prepare(*sample, **options)

        trainer._prepare_sample = prepare_sample
        for _ in range(args.warm_up):
            run.step()
        batches = run.endless_batches()
        next(batches)  # starts the workers
        activities = [ProfilerActivity.CPU]
        activities += [ProfilerActivity.CUDA] if setting.device == "cuda" else []
        synchronize()
        with profile(activities=activities) as profiler:
            start = time.perf_counter()
            for _ in range(args.steps):
                with record_function(LOADING):
                    batch = next(batches)
                trainer.train_step([batch])
            synchronize()
            seconds = time.perf_counter() - start
    return profiler, seconds


def classify(events: list[FunctionEvent], device: str) -> tuple[Counter[str], int]:
    """Return the microseconds of each group and the number of times that the host waited for the GPU."""
    groups: dict[int, str] = {}
    micros: Counter[str] = Counter()
    unclaimed: Counter[str] = Counter()  # kernels that no operation of PyTorch launched, by name
    syncs = 0
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.device_type != torch.autograd.DeviceType.CPU:
            if not getattr(event, "is_user_annotation", False):
                unclaimed[event.name] += event.time_range.elapsed_us()
            continue
        syncs += bool(SYNCS.match(event.name))
        parent = groups.get(id(event.cpu_parent), "") if event.cpu_parent is not None else ""
        group = parent or _match(SCOPES, event.name)
        groups[id(event)] = group
        if group in ("", "loss") and PRODUCTS.search(event.name):
            group = "matmul"
        group = group or _match(OPERATIONS, event.name)
        if device == "cpu" and event.name not in PYTHON:
            micros[group or OTHER] += event.self_cpu_time_total
        for kernel in event.kernels:
            micros[group or _match(OPERATIONS, kernel.name) or OTHER] += kernel.duration
            unclaimed[kernel.name] -= kernel.duration
    for name, left in unclaimed.items():
        group = _match(SCOPES, name) or _match(OPERATIONS, name) or OTHER
        micros[group] += max(0.0, left)
    return micros, syncs


def _match(patterns: tuple[tuple[str, str], ...], name: str) -> str:
    return next((group for pattern, group in patterns if re.search(pattern, name)), "")


def rows_of(setting: Setting, system: str, profiler: profile, seconds: float, steps: int) -> list[dict[str, Any]]:
    """Return a row of the CSV for each group, with what is left of the wall time as the last."""
    micros, syncs = classify(list(profiler.events()), setting.device)
    wall = 1000 * seconds / steps
    times = {group: micros[group] / 1000 / steps for group in GROUPS}
    # The profiler also sees threads that run beside the step; nothing is left then.
    left = "idle GPU" if setting.device == "cuda" else "Python and waiting"
    times[left] = max(0.0, wall - sum(times.values()))
    shared = {"system": system, **setting.columns(), "steps": steps, "step_ms": round(wall, 3)}
    shared["host_syncs_per_step"] = round(syncs / steps, 2) if setting.device == "cuda" else ""
    shared |= environment(setting.device)
    return [
        {"group": group, "ms_per_step": round(time, 4), "share_of_step": round(time / wall, 4), **shared}
        for group, time in times.items()
    ]


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    check_systems(args.systems)
    setting = Setting(args.data, args.arch, args.tokens, args.rows, args.precision, args.device)
    rows: list[dict[str, Any]] = []
    failed = []
    for number, system in enumerate(args.systems):
        try:
            profiler, seconds = profiled(args, setting, system)
        except (Exception, SystemExit) as error:  # one that does not work must not cost the others' numbers
            print(f"{system}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed.append(system)
            continue
        if args.trace and number == 0:
            profiler.export_chrome_trace(args.trace)
        found = rows_of(setting, system, profiler, seconds, args.steps)
        rows += found
        syncs = f", {found[0]['host_syncs_per_step']} host syncs" if args.device == "cuda" else ""
        print(f"{system}: {found[0]['step_ms']} ms a step{syncs}")
        for row in sorted(found, key=lambda row: -row["ms_per_step"]):
            print(f"  {row['group']:22} {row['ms_per_step']:10.3f} ms {100 * row['share_of_step']:6.1f} %")
        write_csv(args.out, rows)
    if failed:
        raise SystemExit(f"these did not run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
