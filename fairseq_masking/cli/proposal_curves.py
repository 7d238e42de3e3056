"""proposal_curves: how MAP-Net's proposal network learned: a table and a figure from training logs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.cli.parsing import OneLineParser, name_and_log, run_reporting
from fairseq_masking.cli.provenance import write_csv
from fairseq_masking.errors import UserError
from fairseq_masking.evaluation.proposal_curves import (
    curve_rows,
    plot_proposal_curves,
    proposal_curves,
    summary_cells,
)
from fairseq_masking.evaluation.tables import format_table
from fairseq_masking.evaluation.training_log import read_training_log

__all__ = ["get_parser", "main"]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(prog="proposal_curves", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--run", dest="runs", action="append", required=True, metavar="NAME=LOG",
        help="a run's log (--log-file), or the folder with its train.log; repeat for several")  # fmt: skip
    add("--figure", type=Path, required=True, metavar="PNG", help="figure to write")
    add("--out", type=Path, metavar="CSV", help="file for the curves' values")
    add("--smooth", type=int, default=1, metavar="N", help="draw means over N intervals (default: 1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.smooth < 1:
        parser.error(f"--smooth {args.smooth} is below 1")
    return run_reporting(parser, lambda: _report(args), args.figure)


def _report(args: argparse.Namespace) -> None:
    paths: dict[str, Path] = {}
    for run in args.runs:
        name, path = name_and_log(run)
        if name in paths:
            raise UserError(f"--run {name}: two runs have this name; give each one of its own")
        paths[name] = path
    runs = {
        name: proposal_curves(name, read_training_log(path, needs_validation=False))
        for name, path in paths.items()
    }
    plot_proposal_curves(runs, args.figure, smooth=args.smooth)
    if args.out is not None:
        write_csv(args.out, curve_rows(runs), {})
    print(format_table(*summary_cells(runs)))


if __name__ == "__main__":
    sys.exit(main())
