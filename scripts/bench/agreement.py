"""Do the fast paths learn the same? Training curves with and without compilation, fused optimizer, bf16.

Every variant trains ``mlm_tiny`` through the real ``fairseq-train`` on the same batches with the same seed,
so that without dropout its curve should lie on the baseline's up to rounding; another seed of the baseline
says how far two honest runs lie apart. Losses are bits a masked token.

    python scripts/bench/agreement.py --data DATA --updates 1000
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import environment, train_once, write_csv

from fairseq_masking.figures.training_log import TrainingLog, read_training_log

FUSED = ["--optimizer", "fused_adamw"]
BASELINE = "baseline"
VARIANTS = {
    BASELINE: ["--compile", "none"],
    "other_seed": ["--compile", "none", "--seed", "2"],
    "compile_encoder": ["--compile", "encoder"],
    "compile_full": ["--compile", "full"],
    "fused_adamw": ["--compile", "none", *FUSED],
    "compile_full+fused_adamw": ["--compile", "full", *FUSED],
    "bf16": ["--compile", "none", "--bf16"],
}
CUDA_VARIANTS = {
    "ops_torch": ["--compile", "none", "--ops-impl", "torch"],
    "everything+bf16": ["--compile", "full", "--bf16", *FUSED],
    "reduce_overhead": ["--compile", "full", "--compile-mode", "reduce-overhead"],
    "fp16": ["--compile", "none", "--fp16"],
}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".quickstart/data", help="prepared corpus")
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--only", nargs="+", help=f"some of {', '.join({**VARIANTS, **CUDA_VARIANTS})}")
    parser.add_argument("--parallel", type=int, default=1, help="runs at once, one CPU thread each")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--work", type=Path, default=Path("/tmp/fairseq_masking_agreement"))
    parser.add_argument("--out", type=Path, default=Path("scripts/bench/results/agreement.csv"))
    return parser.parse_args(argv)


def train(args: argparse.Namespace, variant: str, options: list[str], dropout: float) -> TrainingLog:
    """Train one variant, unless its log is there already; return the log."""
    folder = args.work / f"{variant}-{dropout}-{args.updates}"
    log = folder / "train.json"
    command = f"""{args.data} --task masked_pretraining --criterion mlm --arch mlm_tiny
            --tokens-per-sample {args.tokens} --batch-size {args.rows}
            --max-update {args.updates} --total-num-update {args.updates} --lr 1e-3
            --warmup-updates {args.updates // 10} --lr-scheduler polynomial_decay --optimizer adam
            --adam-betas (0.9,0.98) --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0 --dropout {dropout}
            --attention-dropout {dropout} --num-workers 1 --no-save --log-format json
            --log-interval {max(1, args.updates // 20)} --log-file {log}""".split()
    command += ["--cpu"] if args.device == "cpu" else []
    train_once(folder, [*command, *options])
    return read_training_log(log)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    variants = VARIANTS if args.device == "cpu" else {**VARIANTS, **CUDA_VARIANTS}
    chosen = [BASELINE, *(name for name in variants if name != BASELINE and name in (args.only or variants))]
    runs = [(name, dropout) for dropout in args.dropout for name in chosen]
    with ThreadPoolExecutor(args.parallel) as pool:
        logs = list(pool.map(lambda run: train(args, run[0], variants[run[0]], run[1]), runs))
    by_run = dict(zip(runs, logs, strict=True))
    rows = []
    for (name, dropout), log in by_run.items():
        baseline = by_run[BASELINE, dropout].train
        gaps = [abs(log.train[update]["loss"] - baseline[update]["loss"]) for update in baseline]
        rows.append(
            {
                "variant": name, "dropout": dropout, "updates": args.updates,
                "tokens": args.tokens, "rows": args.rows,
                "valid_bits": log.final("loss"), "largest_gap_bits": round(max(gaps), 4),
                "mean_gap_bits": round(sum(gaps) / len(gaps), 4), **environment(args.device),
            }
        )  # fmt: skip
        print({key: rows[-1][key] for key in list(rows[-1])[:8]}, flush=True)
        write_csv(args.out, rows)


if __name__ == "__main__":
    main()
