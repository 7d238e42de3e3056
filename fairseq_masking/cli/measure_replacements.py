"""How hard each depth's tokens are for AMOS's discriminator (2204.03243, Fig. 1a).

The distribution of the discriminator's loss, in nats, on the tokens that each depth of the generator by
itself, and their mixture, put in place of others: a table, a figure and the histograms' numbers. One
discriminator on the tokens of one generator's depths, where the paper trains a pair of models for each depth.
All sources draw with the same noise; all masked tokens become [MASK]. With several checkpoints, such as one of
each depth (--arch amos_base --generator-layers 4), each has a discriminator of its own, as in the paper.

Example:
  fairseq-masking measure replacements --checkpoint amos.pt --data data/wiki --figure losses.png
"""

import argparse
import math
import time
from typing import Any

from fairseq_masking.cli.options import add_figure, add_measured, at_least, measured_by, write_numbers
from fairseq_masking.errors import UserError

_COLUMNS = {"tokens of": "{name}", "masked": "{num_masked:,}", "replaced": "{replaced:.1%}",
            "loss, mean": "{mean:.4f}", "standard error": "{error:.4f}", "median": "{median:.3f}",
            "quartiles": "{low:.3f}-{high:.3f}", "detected": "{detected:.1%}"}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measured(parser, of="of amos, one or several", several=True, split="valid", mask_prob=0.15, batch_size=16,
                 seed="of sequences, masks and noise")  # fmt: skip
    add_figure(parser)
    add = parser.add_argument
    add("--batches", type=at_least(1), default=20, metavar="N",
        help="batches to measure, at most (default: 20)")  # fmt: skip
    add("--bins", type=at_least(1), default=40, metavar="N", help="of the histograms (default: 40)")


def run(args: argparse.Namespace) -> None:
    """Print the table, write histograms and figure."""
    from itertools import islice

    from tqdm import tqdm

    from fairseq_masking.figures.figure import histogram_rows, plot_distributions
    from fairseq_masking.figures.tables import format_rows
    from fairseq_masking.measure.amos import load_amos, replacement_losses, source_names
    from fairseq_masking.measure.sequences import masked_batches

    started = time.perf_counter()
    found = {}
    for path in args.checkpoint:
        hub, of = (
            load_amos(path, args.data),
            f"{path.absolute().parent.name}/{path.stem} " * (len(args.checkpoint) > 1),
        )
        batches = masked_batches(hub, args.split, **measured_by(args), corruption="mask")
        shown = tqdm(islice(batches, args.batches), unit="batch", total=args.batches, disable=None)
        names = [of + name for name in source_names(hub.model)]
        found |= zip(names, replacement_losses(hub.model, shown), strict=True)
    if not all(len(one.losses) for one in found.values()):
        raise UserError(f"--split {args.split}: nothing was replaced there: measure more batches")
    losses = {name: one.losses.double().numpy() for name, one in found.items()}
    print(format_rows([_row(name, found[name].num_masked, losses[name]) for name in found], _COLUMNS))
    write_numbers(args, histogram_rows(losses, args.bins), since=started)
    if args.figure is not None:
        plot_distributions(losses, args.figure, num_bins=args.bins, title=args.note)


def _row(name: str, num_masked: int, losses_N: Any) -> dict[str, Any]:
    """Of a source how many of the masked tokens it replaced, and the discriminator's losses there."""
    import numpy as np

    low, median, high = np.percentile(losses_N, (25, 50, 75))
    return {
        "name": name,
        "num_masked": num_masked,
        "replaced": len(losses_N) / num_masked,
        "mean": losses_N.mean(),
        "error": losses_N.std(ddof=1) / math.sqrt(len(losses_N)),
        "median": median,
        "low": low,
        "high": high,
        "detected": (losses_N < math.log(2)).mean(),
    }
