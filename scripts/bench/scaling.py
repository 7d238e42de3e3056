"""Tokens a second and peak memory by sequence length and model size: ours and stock, through the Trainer.

Every batch holds the same number of tokens, so that lengths are comparable: what grows with the length is
attention. Columns as in step.py.

    python scripts/bench/scaling.py --data DATA --arch tiny small --tokens 128 256 512 --batch-tokens 2048
    python scripts/bench/scaling.py --data DATA --arch base large --tokens 128 256 512 1024 2048 \\
        --batch-tokens 32768 --precision bf16 --device cuda
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from step import run_settings, systems_parser
from systems import Setting, check_systems

from fairseq_masking.methods.base.options import SIZES


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = systems_parser(__doc__, steps=5, turns=3, out="scripts/bench/results/scaling.csv")
    parser.add_argument("--arch", nargs="+", default=["tiny", "small"], choices=SIZES, help="model sizes")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 512], help="sequence lengths")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens a batch")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    check_systems(args.systems)
    settings = [
        Setting(args.data, arch, tokens, max(1, args.batch_tokens // tokens), args.precision, args.device)
        for arch in args.arch
        for tokens in args.tokens
    ]
    _, failed = run_settings(args, settings, memory=not args.no_memory)
    if failed:
        raise SystemExit(f"these did not run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
