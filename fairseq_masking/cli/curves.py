"""What commands that draw training logs share: options, a figure, a file and a table."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fairseq_masking.cli.parsing import OneLineParser, at_least, name_and_log, run_reporting
from fairseq_masking.errors import UserError
from fairseq_masking.figures.panels import Curves, Panel, curve_rows, plot_panels
from fairseq_masking.figures.provenance import write_csv
from fairseq_masking.figures.tables import format_table
from fairseq_masking.figures.training_log import TrainingLog, read_training_log

__all__ = ["curves_parser", "run_curves"]

Runs = Mapping[str, Curves]


def curves_parser(prog: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """Returns the parser of such a command."""
    parser = OneLineParser(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
    add = parser.add_argument
    add("--run", dest="runs", action="append", required=True, metavar="NAME=LOG",
        help="a run's log (--log-file), or its folder; repeat for several")  # fmt: skip
    add("--figure", type=Path, required=True, metavar="PNG", help="figure to write")
    add("--out", type=Path, metavar="CSV", help="file for the curves' values")
    add("--smooth", type=int, default=1, metavar="N", help="draw means over N intervals (default: 1)")
    return parser


def run_curves(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    curves_of: Callable[[str, TrainingLog], Curves],
    panels_of: Callable[[Runs], Sequence[Panel]],
    summary: Callable[[Runs], tuple[Sequence[str], Sequence[Sequence[str]]]],
) -> int:
    """Runs the command; returns its exit status.

    Args:
        curves_of: a run's name and log -> its curves; raises UserError where the log is another method's.
        panels_of: what to draw of the runs.
        summary: header and lines of the table.
    """
    args = parser.parse_args(argv)
    at_least(parser, args, smooth=1)

    def report() -> None:
        runs = {
            name: curves_of(name, read_training_log(path, needs_validation=False))
            for name, path in _paths(args.runs).items()
        }
        plot_panels(runs, panels_of(runs), args.figure, smooth=args.smooth)
        if args.out is not None:
            write_csv(args.out, curve_rows(runs), {})
        print(format_table(*summary(runs)))

    return run_reporting(parser, report, args.figure)


def _paths(given: Sequence[str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for run in given:
        name, path = name_and_log(run)
        if name in paths:
            raise UserError(f"--run {name}: two runs have this name; give each one of its own")
        paths[name] = path
    return paths
