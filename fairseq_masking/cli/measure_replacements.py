"""How hard each depth's tokens are for AMOS's discriminator (2204.03243, Fig. 1a).

The distribution of the discriminator's loss, in nats, on the tokens that each depth of the generator by
itself, and their mixture, put in place of others: a table, a figure and the histograms' numbers. One
discriminator on the tokens of one generator's depths, where the paper trains a pair of models for each depth.
All sources draw with the same noise; all masked tokens become [MASK].

Example:
  fairseq-masking measure replacements --checkpoint amos.pt --data data/wiki --figure losses.png
"""

import argparse
import math
import time
from collections.abc import Mapping
from typing import Any

from fairseq_masking.cli.options import add_figure, add_measured, at_least, measured_by, write_numbers
from fairseq_masking.errors import UserError

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_measured(parser, of="of amos", split="valid", mask_prob=0.15, batch_size=16,
                 seed="of sequences, masks and noise")  # fmt: skip
    add_figure(parser)
    add = parser.add_argument
    add("--batches", type=at_least(1), default=20, metavar="N",
        help="batches to measure, at most (default: 20)")  # fmt: skip
    add("--bins", type=at_least(1), default=40, metavar="N", help="of the histograms (default: 40)")


def run(args: argparse.Namespace) -> None:
    """Print the table, write histograms and figure."""
    from fairseq_masking import register

    register()
    from itertools import islice

    from tqdm import tqdm

    from fairseq_masking.figures.figure import histogram_rows, plot_distributions
    from fairseq_masking.measure.amos import amos_batches, load_amos, replacement_losses, source_names

    started = time.perf_counter()
    hub = load_amos(args.checkpoint, args.data)
    batches = islice(amos_batches(hub, args.split, **measured_by(args)), args.batches)
    shown = tqdm(batches, unit="batch", total=args.batches, disable=None)
    found = dict(zip(source_names(hub.model), replacement_losses(hub.model, shown), strict=True))
    if not all(len(one.losses) for one in found.values()):
        raise UserError(f"--split {args.split}: nothing was replaced there: measure more batches")
    print(_table(found))
    losses = {name: one.losses.double().numpy() for name, one in found.items()}
    write_numbers(args, histogram_rows(losses, args.bins), since=started)
    if args.figure is not None:
        plot_distributions(losses, args.figure, num_bins=args.bins, title=args.note)


def _table(found: Mapping[str, Any]) -> str:
    """Of each source how many of the masked tokens it replaced, and the discriminator's losses there."""
    import numpy as np

    from fairseq_masking.figures.tables import format_table

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
        detected = (losses < math.log(2)).float().mean()
        cells.append(
            [name, f"{num_masked:,}", f"{len(losses) / num_masked:.1%}", f"{losses.mean():.4f}",
             f"{losses.std() / math.sqrt(len(losses)):.4f}", f"{median:.3f}", f"{low:.3f}-{high:.3f}",
             f"{detected:.1%}"]
        )  # fmt: skip
    return format_table(header, cells)
