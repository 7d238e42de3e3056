"""What fine-tuned scores have to beat, on the same rows.

The most frequent class (or mean score, or no answer), and TF-IDF with logistic regression.

Example:
  fairseq-masking baselines --data data/SST-2 data/CoLA
"""

import argparse
from pathlib import Path

from fairseq_masking.cli.options import add_out


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="made by prepare task")
    add_out(parser, "also write the scores", metavar="JSON")


def run(args: argparse.Namespace) -> None:
    """Print a table of each folder's scores, by split and baseline."""
    from fairseq_masking.figures.tables import format_table
    from fairseq_masking.files import write_json
    from fairseq_masking.finetuning.baselines import baseline_scores
    from fairseq_masking.finetuning.prepare import finetuning_settings

    found = {str(data): baseline_scores(data) for data in args.data}
    for data, baselines in found.items():
        columns = {f"{split} {name}": scores for name, splits in baselines.items() for split, scores in splits.items()}
        names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
        rows = [[column, *(f"{scores[name]:.2f}" for name in names)] for column, scores in columns.items()]
        print(f"{finetuning_settings(data)['task']} ({data})")
        print(format_table(["baseline", *names], rows))
    if args.out is not None:
        write_json(args.out, found)
