"""finetune_baselines: what fine-tuned scores have to beat, on the same rows.

The most frequent class (or mean score, or no answer), and TF-IDF with logistic regression.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.cli.parsing import OneLineParser, run_reporting
from fairseq_masking.figures.tables import format_table
from fairseq_masking.files import whole_file
from fairseq_masking.finetuning.baselines import baseline_scores
from fairseq_masking.finetuning.prepare import finetuning_settings

__all__ = ["get_parser", "main"]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="finetune_baselines", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="DIR", help="made by prepare_finetune")
    add("--json", type=Path, metavar="FILE", help="write the scores there, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    return run_reporting(parser, lambda: _measure(args), args.json)


def _measure(args: argparse.Namespace) -> None:
    found = {str(data): baseline_scores(data) for data in args.data}
    for data, baselines in found.items():
        columns = {
            f"{split} {name}": scores
            for name, splits in baselines.items()
            for split, scores in splits.items()
        }
        names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
        rows = [[column, *(f"{scores[name]:.2f}" for name in names)] for column, scores in columns.items()]
        print(f"{finetuning_settings(data)['task']} ({data})")
        print(format_table(["baseline", *names], rows))
    if args.json is not None:
        with whole_file(args.json) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
