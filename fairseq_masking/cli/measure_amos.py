"""What AMOS's generator and discriminator do to each other, on a checkpoint."""

import argparse
import math
from itertools import islice

from fairseq_masking.cli.options import add_measured, add_shared, at_least, measured_by, write_numbers
from fairseq_masking.errors import UserError

_SIGNS = {-1.0: "reversed (AMOS)", 1.0: "not reversed"}
_OF_STEPS = {"gradient of v": "{sign}", "steps": "{step}", "held-out loss": "{disc_loss:.5f}",
             "difference": "{difference:+.5f}", "standard error": "{standard_error:.5f}",
             "replaced": "{replace_rate:.1%}"}  # fmt: skip
_OF_SOURCES = {"tokens of": "{name}", "masked": "{num_masked:,}", "replaced": "{replaced:.1%}",
               "loss, mean": "{mean:.4f}", "standard error": "{error:.4f}", "median": "{median:.3f}",
               "quartiles": "{low:.3f}-{high:.3f}", "detected": "{detected:.1%}"}  # fmt: skip


class Replacements:
    """How hard each depth's tokens are for AMOS's discriminator (2204.03243, Fig. 1a).

    The distribution of the discriminator's loss, in nats, on the tokens that each depth of the generator by
    itself, and their mixture, put in place of others: a table, a figure and the histograms' numbers. One
    discriminator on the tokens of one generator's depths, where the paper trains a pair of models for each depth.
    All sources draw with the same noise; all masked tokens become [MASK]. With several checkpoints, such as one of
    each depth (--arch amos_base --generator-layers 4), each has a discriminator of its own, as in the paper.

    Example:
      fairseq-masking measure replacements --checkpoint amos.pt --data data/wiki --figure losses.png
    """

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        add_measured(parser, of="of amos, one or several", several=True, split="valid", mask_prob=0.15, batch_size=16,
                     seed="of sequences, masks and noise")  # fmt: skip
        add_shared(parser, "figure")
        add = parser.add_argument
        add("--batches", type=at_least(1), default=20, metavar="N", help="batches to measure, at most")
        add("--bins", type=at_least(1), default=40, metavar="N", help="of the histograms")

    @staticmethod
    def run(args: argparse.Namespace) -> None:
        import numpy as np
        from tqdm import tqdm

        from fairseq_masking.figures.figure import histogram_rows, plot_distributions
        from fairseq_masking.figures.tables import format_rows
        from fairseq_masking.measure.amos import load_amos, replacement_losses, source_names
        from fairseq_masking.measure.sequences import masked_batches

        losses, rows = {}, []
        for path in args.checkpoint:
            hub = load_amos(path, args.data)
            of = f"{path.absolute().parent.name}/{path.stem} " if len(args.checkpoint) > 1 else ""
            batches = islice(masked_batches(hub, args.split, **measured_by(args), corruption="mask"), args.batches)
            found = replacement_losses(hub.model, tqdm(batches, unit="batch", total=args.batches, disable=None))
            for name, (each, num_masked) in zip(source_names(hub.model), found, strict=True):
                if not len(each):
                    raise UserError(f"--split {args.split}: nothing was replaced there: measure more batches")
                losses[of + name] = each_N = each.double().numpy()
                low, median, high = np.percentile(each_N, (25, 50, 75))
                rows.append({
                    "name": of + name, "num_masked": num_masked, "replaced": len(each_N) / num_masked,
                    "mean": each_N.mean(), "error": each_N.std(ddof=1) / math.sqrt(len(each_N)), "median": median,
                    "low": low, "high": high, "detected": (each_N < math.log(2)).mean(),
                })  # fmt: skip
        print(format_rows(rows, _OF_SOURCES))
        write_numbers(args, histogram_rows(losses, args.bins))
        if args.figure is not None:
            plot_distributions(losses, args.figure, num_bins=args.bins, title=args.note)


class Adversary:
    """Whether AMOS's mixture learns what is hard for the discriminator (2204.03243, Section 3.3).

    Steps on the mixture's v alone, everything else frozen: with AMOS's reversed gradient the discriminator's loss
    on held-out text ought to rise, with the sign flipped it ought to fall. Losses: the discriminator's mean
    cross-entropy a token, in nats, without dropout, with the same Gumbel noise before and after; all masked
    tokens become [MASK]. The difference is of pairs of batches, with its standard error. Text of the steps:
    --split; held out: --held-out-split.

    Example:
      fairseq-masking measure adversary --checkpoint amos.pt --data data/wiki --uniform-start
    """

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        add_measured(parser, of="of amos", split="train", mask_prob=0.15, batch_size=16,
                     seed="of sequences, masks and noise")  # fmt: skip
        add = parser.add_argument
        add("--held-out-split", default="valid", help="of the corpus, to measure on")
        add("--steps", type=at_least(1), default=30, metavar="N", help="on v, for either sign")
        add("--every", type=at_least(1), default=10, metavar="N", help="steps between measurements")
        add("--held-out", type=at_least(2), default=12, metavar="N", help="batches to measure on")
        add("--uniform-start", action="store_true",
            help="begin with all depths weighed the same, not where the checkpoint is")  # fmt: skip
        add("--lr", type=float, default=0.01, help="of the steps, Adam")

    @staticmethod
    def run(args: argparse.Namespace) -> None:
        from fairseq_masking.figures.tables import format_rows
        from fairseq_masking.measure.amos import adversary_path, difference, load_amos
        from fairseq_masking.measure.sequences import masked_batches
        from fairseq_masking.methods.amos.generator import depth_names

        rows = []
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
        steps = {"num_steps": args.steps, "every": args.every, "lr": args.lr, "uniform_start": args.uniform_start}
        for scale in _SIGNS:
            path = adversary_path(hub.model, batches, held_out, scale=scale, **steps)
            for found in path:
                weights = zip(depth_names(hub.model.depths), found.weights_K.tolist(), strict=True)
                changed = difference(found, path[0])
                rows.append({
                    "scale": scale, "step": found.step, "disc_loss": float(found.losses_B.mean()),
                    "difference": changed.mean, "standard_error": changed.standard_error,
                    "batches": len(found.losses_B), "replace_rate": found.replaced,
                    **{f"mixture_{name}": weight for name, weight in weights},
                })  # fmt: skip
        mixture = {name: f"{{{name}:.3f}}" for name in rows[0] if name.startswith("mixture_")}
        print(format_rows([{**row, "sign": _SIGNS[row["scale"]]} for row in rows], _OF_STEPS | mixture))
        write_numbers(args, rows)
