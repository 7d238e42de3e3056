"""predict: a fine-tuned checkpoint's predictions and scores.

GLUE and JSONL: a file for each test set without labels, as the leaderboard takes it (CoLA.tsv, MNLI-m.tsv,
...). SQuAD: SPLIT/predictions.json, null_odds.json and nbest_predictions.json of the development and the test
set, as its evaluation script takes them. scores.json holds the scores of the sets that have labels, over all
their rows; these sets' predictions are written for SQuAD alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fairseq_masking.cli.parsing import OneLineParser, at_least, run_reporting
from fairseq_masking.figures.tables import format_table
from fairseq_masking.finetuning.finetuned import Finetuned
from fairseq_masking.finetuning.submission import predict

__all__ = ["get_parser", "main"]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="predict", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE",
        help="trained with --task sentence_prediction or squad")  # fmt: skip
    add("--data", type=Path, metavar="DIR", help="prepared data (default: those it was trained on)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--batch-size", type=int, default=64, metavar="N", help="rows at a time (default: 64)")
    add("--device", type=_device, default="cpu", help="where the model runs: cpu (default) or cuda")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    at_least(parser, args, batch_size=1)
    return run_reporting(parser, lambda: _predict(args), args.out)


def _device(name: str) -> str:
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    places = ["cpu", "cuda", *gpus] if gpus else ["cpu"]
    if name not in places:
        raise argparse.ArgumentTypeError(f"'{name}' is not here; choose of {', '.join(places)}")
    return name


def _predict(args: argparse.Namespace) -> None:
    finetuned = Finetuned.load(args.checkpoint, data=args.data, device=args.device)
    scores = predict(finetuned, args.out, batch_size=args.batch_size)
    for split, found in scores.items():
        print(format_table([split, "score"], [[name, f"{value:.2f}"] for name, value in found.items()]))
    written = sorted(path for path in args.out.rglob("*") if path.is_file())
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    sys.exit(main())
