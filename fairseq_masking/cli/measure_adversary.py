"""Whether AMOS's mixture learns what is hard for the discriminator (2204.03243, Section 3.3).

Steps on the mixture's v alone, everything else frozen: with AMOS's reversed gradient the discriminator's loss
on held-out text ought to rise, with the sign flipped it ought to fall. Losses: the discriminator's mean
cross-entropy a token, in nats, without dropout, with the same Gumbel noise before and after; all masked
tokens become [MASK]. The difference is of pairs of batches, with its standard error. Text of the steps:
--split; held out: --held-out-split.

Example:
  fairseq-masking measure adversary --checkpoint amos.pt --data data/wiki --uniform-start
"""

import argparse
import time

from fairseq_masking.cli.options import add_measured, at_least, measured_by, write_numbers
from fairseq_masking.errors import UserError

_SIGNS = {-1.0: "reversed (AMOS)", 1.0: "not reversed"}
_COLUMNS = {"gradient of v": "{sign}", "steps": "{step}", "held-out loss": "{disc_loss:.5f}",
            "difference": "{difference:+.5f}", "standard error": "{standard_error:.5f}",
            "replaced": "{replace_rate:.1%}"}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measured(parser, of="of amos", split="train", mask_prob=0.15, batch_size=16,
                 seed="of sequences, masks and noise")  # fmt: skip
    add = parser.add_argument
    add("--held-out-split", default="valid", help="of the corpus, to measure on (default: valid)")
    add("--steps", type=at_least(1), default=30, metavar="N", help="on v, for either sign (default: 30)")
    add("--every", type=at_least(1), default=10, metavar="N",
        help="steps between measurements (default: 10)")  # fmt: skip
    add("--held-out", type=at_least(2), default=12, metavar="N",
        help="batches to measure on (default: 12)")  # fmt: skip
    add("--uniform-start", action="store_true",
        help="begin with all depths weighed the same, not where the checkpoint is")  # fmt: skip
    add("--lr", type=float, default=0.01, help="of the steps, Adam (default: 0.01)")


def run(args: argparse.Namespace) -> None:
    """Print the table, write the file."""
    from itertools import islice

    from fairseq_masking.figures.tables import format_rows
    from fairseq_masking.measure.amos import adversary_path, difference, load_amos
    from fairseq_masking.measure.sequences import masked_batches
    from fairseq_masking.methods.amos.generator import depth_names

    started = time.perf_counter()
    hub = load_amos(args.checkpoint, args.data)
    batches, held_out = (
        list(islice(masked_batches(hub, split, **measured_by(args), corruption="mask"), count))
        for split, count in ((args.split, args.steps), (args.held_out_split, args.held_out))
    )
    if len(held_out) < 2:
        raise UserError(
            f"--held-out-split {args.held_out_split} has {len(held_out)} batches of --batch-size"
            f" {args.batch_size}, two at least are needed: lower it"
        )
    rows = []
    for scale in _SIGNS:
        path = adversary_path(
            hub.model, batches, held_out, scale=scale, num_steps=args.steps, every=args.every, lr=args.lr,
            uniform_start=args.uniform_start,
        )  # fmt: skip
        for found in path:
            weights = zip(depth_names(hub.model.depths), found.weights_K, strict=True)
            changed = difference(found, path[0])
            rows.append(
                {
                    "scale": scale,
                    "step": found.step,
                    "disc_loss": float(found.losses_B.mean()),
                    "difference": changed.mean,
                    "standard_error": changed.standard_error,
                    "batches": len(found.losses_B),
                    "replace_rate": found.replaced,
                    **{f"mixture_{name}": float(weight) for name, weight in weights},
                }
            )
    mixture = {name: f"{{{name}:.3f}}" for name in rows[0] if name.startswith("mixture_")}
    print(format_rows([{**row, "sign": _SIGNS[row["scale"]]} for row in rows], _COLUMNS | mixture))
    write_numbers(args, rows, since=started)
