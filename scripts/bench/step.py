"""Time and peak memory of a training step: ours against stock fairseq, through the real Trainer, in one run.

Both systems take turns in one process, on batches from their own task over the same corpus, so that the
machine's mood hits both alike. Peak memory is measured in a process of its own for each. Beside them stands
the bare time of the step's matrix products, timed at the same moment: what no version can beat.

    python scripts/bench/step.py --data DATA --arch small --tokens 128 512 --rows 32 8
"""

import argparse
import csv
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from common import environment, synchronize
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

import fairseq_masking
from fairseq_masking.models.architectures import SIZES

SYSTEMS = ("fairseq_masking", "stock_fairseq")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=".quickstart/data", help="prepared corpus")
    parser.add_argument("--arch", default="small", choices=SIZES, help="shape of the encoder")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512], help="tokens a row")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[32, 8], help="rows a batch, one for each --tokens"
    )
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument("--turns", type=int, default=5, help="turns of each system; the first warms up")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", default="scripts/bench/results/step.csv")
    parser.add_argument("--memory-of", choices=SYSTEMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def training_options(
    args: argparse.Namespace, system: str, tokens: int, rows: int, save_dir: str
) -> list[str]:
    """Return fairseq-train's options for one system: same shape, precision, batch and optimizer."""
    size = SIZES[args.arch]
    shared = f"""{args.data} --tokens-per-sample {tokens} --batch-size {rows} --max-positions 512
        --optimizer adam --adam-betas (0.9,0.98) --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0
        --lr-scheduler polynomial_decay --lr 1e-4 --warmup-updates 100 --total-num-update 100000
        --num-workers 0 --data-buffer-size 0 --dropout 0.1 --attention-dropout 0.1 --log-interval 1000000
        --save-dir {save_dir}""".split()
    shared += ["--cpu"] if args.device == "cpu" else []
    shared += [] if args.precision == "fp32" else [f"--{args.precision}"]
    if system == "stock_fairseq":
        return [
            *shared, "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta",
            "--encoder-layers", str(size.encoder_layers), "--encoder-embed-dim", str(size.encoder_embed_dim),
            "--encoder-ffn-embed-dim", str(size.encoder_ffn_embed_dim),
            "--encoder-attention-heads", str(size.encoder_attention_heads),
        ]  # fmt: skip
    arch = f"mlm_{args.arch}"
    return [*shared, "--task", "masked_pretraining", "--criterion", "mlm", "--arch", arch]


class Run:
    """One system with its own trainer and a fixed handful of batches."""

    def __init__(self, argv: list[str], num_batches: int) -> None:
        parser = options.get_training_parser()
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, argv))
        cfg.common.tpu = False
        task = tasks.setup_task(cfg.task)
        torch.manual_seed(1)
        model = task.build_model(cfg.model)
        self.trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
        iterator = self.trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True)
        self.batches = itertools.cycle([[batch] for batch in itertools.islice(iterator, num_batches)])
        self.trainer.begin_epoch(1)

    def steps(self, count: int) -> list[float]:
        """Take ``count`` steps; return the seconds of each."""
        seconds = []
        for batch in itertools.islice(self.batches, count):
            synchronize()
            start = time.perf_counter()
            self.trainer.train_step(batch)
            synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds


def matrix_products(args: argparse.Namespace, tokens: int, rows: int, vocabulary: int) -> float:
    """Return the seconds that a step's matrix products take on their own: forward once, backward twice."""
    size, device = SIZES[args.arch], args.device
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.precision]
    width, inner, heads = size.encoder_embed_dim, size.encoder_ffn_embed_dim, size.encoder_attention_heads
    places, masked = rows * tokens, rows * round(0.15 * (tokens - 2))
    shapes = [  # (batch, m, k, n), times in a step's forward pass
        ((1, places, width, 3 * width), size.encoder_layers),
        ((1, places, width, width), size.encoder_layers),
        ((1, places, width, inner), size.encoder_layers),
        ((1, places, inner, width), size.encoder_layers),
        ((rows * heads, tokens, width // heads, tokens), size.encoder_layers),
        ((rows * heads, tokens, tokens, width // heads), size.encoder_layers),
        ((1, masked, width, width), 1),
        ((1, masked, width, vocabulary), 1),
    ]
    total = 0.0
    for (batch, m, k, n), count in shapes:
        left, right = (torch.randn(batch, *shape, device=device, dtype=dtype) for shape in ((m, k), (k, n)))
        product = torch.randn(batch, m, n, device=device, dtype=dtype)
        triple = ((left, right), (product, right.transpose(1, 2)), (left.transpose(1, 2), product))
        for a, b in triple:
            times = []
            for _ in range(6):
                synchronize()
                start = time.perf_counter()
                torch.bmm(a, b)
                synchronize()
                times.append(time.perf_counter() - start)
            total += count * statistics.median(times[1:])
    return total


def peak_memory(args: argparse.Namespace, system: str, tokens: int, rows: int) -> float:
    """Return the MiB that training adds at its peak to the process with the model (GPU: all that is held)."""
    command = [
        sys.executable, __file__, "--data", args.data, "--arch", args.arch,
        "--tokens", str(tokens), "--rows", str(rows), "--precision", args.precision, "--device", args.device,
        "--threads", str(args.threads), "--memory-of", system,
    ]  # fmt: skip
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])["mib"]


def measure_memory(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as save_dir:
        run = Run(training_options(args, args.memory_of, args.tokens[0], args.rows[0], save_dir), 4)
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            run.steps(6)
            mib = torch.cuda.max_memory_allocated() / 2**20
        else:
            before = memory_status("VmRSS")
            run.steps(6)
            mib = memory_status("VmHWM") - before
    print(json.dumps({"mib": mib}))


def memory_status(field: str) -> float:
    """Return a figure of /proc/self/status in MiB; getrusage's peak may be the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    sys.argv = sys.argv[:1]  # fairseq's parsers look at it
    if args.memory_of:
        measure_memory(args)
        return
    rows_of_csv = []
    for tokens, rows in zip(args.tokens, args.rows, strict=True):
        with tempfile.TemporaryDirectory() as save_dir:
            runs = {name: Run(training_options(args, name, tokens, rows, save_dir), 8) for name in SYSTEMS}
            seconds: dict[str, list[float]] = {name: [] for name in SYSTEMS}
            bounds = []
            vocabulary = len(runs[SYSTEMS[0]].trainer.task.source_dictionary)
            for turn in range(args.turns):
                for name in SYSTEMS if turn % 2 else SYSTEMS[::-1]:
                    times = runs[name].steps(args.steps)
                    if turn:
                        seconds[name] += times
                bounds.append(matrix_products(args, tokens, rows, vocabulary))
        bound = statistics.median(bounds)
        stock = statistics.median(seconds["stock_fairseq"])
        for name in SYSTEMS:
            low, median, high = statistics.quantiles(seconds[name], n=4)
            rows_of_csv.append(
                {
                    "system": name, "arch": args.arch, "tokens": tokens, "rows": rows,
                    "vocabulary": vocabulary,
                    "precision": args.precision, "step_ms": round(1000 * median, 3),
                    "quartiles_ms": f"{1000 * low:.3f}-{1000 * high:.3f}",
                    "tokens_per_s": round(tokens * rows / median), "matmul_bound_ms": round(1000 * bound, 3),
                    "times_bound": round(median / bound, 3), "speed_over_stock": round(stock / median, 3),
                    "peak_mib": round(peak_memory(args, name, tokens, rows), 1), **environment(args.device),
                }
            )  # fmt: skip
            print({key: rows_of_csv[-1][key] for key in list(rows_of_csv[-1])[:13]}, flush=True)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows_of_csv[0])
        writer.writeheader()
        writer.writerows(rows_of_csv)


if __name__ == "__main__":
    assert fairseq_masking.__version__
    main()
