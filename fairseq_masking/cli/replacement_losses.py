"""replacement_losses: how hard each depth's tokens are for the discriminator (2204.03243, Fig. 1a).

The distribution of the discriminator's loss on the tokens that each depth of the generator by itself, and
their mixture, put in place of others: a table, a figure and the histograms' numbers.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fairseq_masking.cli.parsing import OneLineParser, at_least, run_reporting
from fairseq_masking.errors import UserError
from fairseq_masking.figures.figure import histogram_rows, plot_distributions
from fairseq_masking.figures.provenance import provenance_of, write_csv
from fairseq_masking.figures.tables import format_table
from fairseq_masking.measure.measurements import add_amos_options, amos_batches, load_amos
from fairseq_masking.measure.replacements import ReplacementLosses, replacement_losses, source_names

__all__ = ["get_parser", "main"]

_EPILOG = """Losses in nats, of one discriminator on the tokens of one generator's depths, where the paper
trains a pair of models for each depth. All sources draw with the same noise."""


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="replacement_losses", description=__doc__, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add_amos_options(parser)
    add = parser.add_argument
    add("--split", default="valid", help="of the corpus")
    add("--batches", type=int, default=20, metavar="N", help="batches to measure, at most")
    add("--bins", type=int, default=40, metavar="N", help="of the histograms")
    add("--out", type=Path, metavar="CSV", help="file for the histograms, with what reproduces them")
    add("--figure", type=Path, metavar="PNG", help="file for the figure")
    add("--note", default="", metavar="TEXT", help="kept in the file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = get_parser()
    args = parser.parse_args(argv)
    at_least(parser, args, batches=1, batch_size=1, bins=1)
    return run_reporting(parser, lambda: _report(args, argv), args.out, args.figure, args.data)


def _report(args: argparse.Namespace, argv: Sequence[str]) -> None:
    start = time.perf_counter()
    found = _measure(args)
    print(_table(found))
    losses = {name: one.losses.double().numpy() for name, one in found.items()}
    if args.out is not None:
        command = ["replacement_losses", *argv]
        provenance = provenance_of(command, [args.checkpoint], since=start, note=args.note)
        write_csv(args.out, histogram_rows(losses, args.bins), provenance)
    if args.figure is not None:
        plot_distributions(losses, args.figure, num_bins=args.bins, title=args.note)


def _measure(args: argparse.Namespace) -> dict[str, ReplacementLosses]:
    hub = load_amos(args.checkpoint, args.data)
    batches = islice(amos_batches(hub, args, args.split), args.batches)
    shown = tqdm(batches, unit="batch", total=args.batches, disable=None)
    found = dict(zip(source_names(hub.model), replacement_losses(hub.model, shown), strict=True))
    if not all(len(one.losses) for one in found.values()):
        raise UserError(f"--split {args.split}: nothing was replaced there: measure more batches")
    return found


def _table(found: dict[str, ReplacementLosses]) -> str:
    header = [
        "tokens of",
        "masked",
        "replaced",
        "loss, mean",
        "standard error",
        "median",
        "quartiles",
        "detected",
    ]
    cells = []
    for name, (losses, num_masked) in found.items():
        low, median, high = np.percentile(losses, (25, 50, 75))
        cells.append(
            [
                name,
                f"{num_masked:,}",
                f"{len(losses) / num_masked:.1%}",
                f"{losses.mean():.4f}",
                f"{losses.std() / math.sqrt(len(losses)):.4f}",
                f"{median:.3f}",
                f"{low:.3f}-{high:.3f}",
                f"{(losses < math.log(2)).float().mean():.1%}",
            ]
        )
    return format_table(header, cells)


if __name__ == "__main__":
    sys.exit(main())
