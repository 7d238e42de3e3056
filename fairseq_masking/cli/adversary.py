"""adversary: does AMOS's mixture learn what is hard for the discriminator (2204.03243, Section 3.3)?

Steps on the mixture's v alone, everything else frozen: with AMOS's reversed gradient the discriminator's loss
on held-out text ought to rise, with the sign flipped it ought to fall.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from fairseq_masking.cli.parsing import OneLineParser, at_least, run_reporting
from fairseq_masking.errors import UserError
from fairseq_masking.figures.provenance import provenance_of, write_csv
from fairseq_masking.figures.tables import format_table
from fairseq_masking.measure.adversary import HeldOut, adversary_path, difference
from fairseq_masking.measure.measurements import add_amos_options, amos_batches, load_amos
from fairseq_masking.methods.amos.generator import depth_names

__all__ = ["get_parser", "main"]

_SCALES = (-1.0, 1.0)
_EPILOG = """Losses: the discriminator's mean cross-entropy a token, in nats, without dropout, with the same
Gumbel noise before and after. The difference is of pairs of batches, with its standard error. Text of the
steps: --split; held out: the validation split."""


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="adversary", description=__doc__, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add_amos_options(parser)
    add = parser.add_argument
    add("--split", default="train", help="of the corpus, to take steps on")
    add("--held-out-split", default="valid", help="of the corpus, to measure on")
    add("--steps", type=int, default=30, metavar="N", help="on v, for either sign")
    add("--every", type=int, default=10, metavar="N", help="steps between measurements")
    add("--held-out", type=int, default=12, metavar="N", help="batches to measure on")
    add("--uniform-start", action="store_true",
        help="begin with all depths weighed the same, not where the checkpoint is")  # fmt: skip
    add("--lr", type=float, default=0.01, help="of the steps (Adam)")
    add("--out", type=Path, metavar="CSV", help="file for the numbers, with what reproduces them")
    add("--note", default="", metavar="TEXT", help="kept in the file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = get_parser()
    args = parser.parse_args(argv)
    at_least(parser, args, batch_size=1, steps=1, every=1, held_out=2)
    return run_reporting(parser, lambda: _report(args, argv), args.out, args.data)


def _report(args: argparse.Namespace, argv: Sequence[str]) -> None:
    start = time.perf_counter()
    rows = _rows(args)
    print(_table(rows))
    if args.out is not None:
        command = ["adversary", *argv]
        write_csv(args.out, rows, provenance_of(command, [args.checkpoint], since=start, note=args.note))


def _rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    hub = load_amos(args.checkpoint, args.data)
    batches, held_out = (
        list(islice(amos_batches(hub, args, split), count))
        for split, count in ((args.split, args.steps), (args.held_out_split, args.held_out))
    )
    if len(held_out) < 2:
        raise UserError(
            f"--held-out-split {args.held_out_split} has {len(held_out)} batches of --batch-size"
            f" {args.batch_size}, two at least are needed: lower it"
        )
    rows = []
    for scale in _SCALES:
        path = adversary_path(
            hub.model,
            batches,
            held_out,
            scale=scale,
            num_steps=args.steps,
            every=args.every,
            lr=args.lr,
            uniform_start=args.uniform_start,
        )
        rows += [_row(scale, found, path[0], depth_names(hub.model.depths)) for found in path]
    return rows


def _row(scale: float, found: HeldOut, before: HeldOut, depths: Sequence[str]) -> dict[str, Any]:
    changed = difference(found, before)
    return {
        "scale": scale,
        "step": found.step,
        "disc_loss": float(found.losses_B.mean()),
        "difference": changed.mean,
        "standard_error": changed.standard_error,
        "batches": len(found.losses_B),
        "replace_rate": found.replaced,
        **{f"mixture_{name}": float(weight) for name, weight in zip(depths, found.weights_K, strict=True)},
    }


def _table(rows: list[dict[str, Any]]) -> str:
    weights = [name for name in rows[0] if name.startswith("mixture_")]
    header = ["gradient of v", "steps", "held-out loss", "difference", "standard error", "replaced", *weights]
    cells = [
        [
            "reversed (AMOS)" if row["scale"] < 0 else "not reversed",
            str(row["step"]),
            f"{row['disc_loss']:.5f}",
            f"{row['difference']:+.5f}",
            f"{row['standard_error']:.5f}",
            f"{row['replace_rate']:.1%}",
            *(f"{row[name]:.3f}" for name in weights),
        ]
        for row in rows
    ]
    return format_table(header, cells)


if __name__ == "__main__":
    sys.exit(main())
