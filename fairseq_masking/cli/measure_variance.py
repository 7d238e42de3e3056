"""What masks do to the variance of the gradient, on a checkpoint and a prepared corpus.

--of splits     K independent against K disjoint masks of a sequence (2010.06040, Theorem 1, Eq. 5-10)
--of distances  the covariance of two masks' gradients by their Hamming distance (2010.06040, Fig. 2 and 3);
                takes several checkpoints, a column of the figure each
--of laws       masks from MAP-Net's proposal network, and from laws proportional to each position's loss and
                to its gradient's norm, against uniform ones (2008.05333, Theorem 1 and 2)

Losses are in nats, gradients those of a mask's cross-entropies, summed and divided by their number (--loss);
variances are traces of covariance matrices; dropout is off. Sequences are full blocks, drawn by --seed.

Laws: a position's loss (loss oracle) and the root mean square of its gradient's norm (gradient oracle) are
those over uniform masks that contain it. Weights: set, Eq. 5's ratio of a mask's probabilities; ordered, that
of its draws in their order; clipped, the paper's, clipped by --importance-clip; none, 1. The last two are
biased. "direct" is from a law's own draws; of the unbiased weights the mask variance is taken from uniform
masks, which is more precise. Where few draws are effective, what a law's own draws say of a weight (direct,
sentence variance, bias, cosine) says little, and the intervals are too narrow.

Example:
  fairseq-masking measure variance --of laws --checkpoint map_net.pt --data data/wiki --figure variance.png
"""

import argparse
from typing import Any

from fairseq_masking.cli.options import add_measured, add_shared, at_least, check_names, write_numbers
from fairseq_masking.measure import CORRUPTIONS

# What each --of takes beside the options of all, with its default.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "splits": {"sequences": 8, "mask_prob": 0.15, "memory": 2.0, "mask_unit": "subword", "mask_splits": 4,
               "draws": 64, "replicates": 2000},
    "distances": {"sequences": 8, "mask_prob": 0.25, "memory": 2.0, "distances": 9, "pairs": 64,
                  "reference_masks": 128, "names": None},
    "laws": {"sequences": 16, "mask_prob": 0.15, "memory": 4.0, "num_masks": None, "draws": 64,
             "replicates": 1000, "oracle_rounds": 8, "gradient_rounds": 2, "importance_clip": None},
}  # fmt: skip
_ENCODER = r"^(?!proposal\.)"  # the loss says nothing about a proposal network's own parameters


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--of", choices=list(_DEFAULTS), default="splits", help="see above (default: splits)")
    add_measured(parser, of="of mlm or three_ml; laws: of map_net too", split="train", several=True,
                 mask_prob=_told("mask_prob"), seed="of sequences, masks and resampling")  # fmt: skip
    add_shared(parser, "figure")
    parser.add_argument("--corruption", choices=list(CORRUPTIONS), default="mask",
        help="mask: always [MASK], as the papers' algebra (default); bert: 80/10/10")  # fmt: skip
    parser.add_argument("--loss", choices=("mean", "sum"), default="mean",
        help="sum: 2010.06040, Eq. 1; mean: divided by the number of masked tokens (default)")  # fmt: skip
    parser.add_argument("--parameters", metavar="REGEX", default=_ENCODER,
        help="differentiate by those whose name matches (default: all but a proposal network's)")  # fmt: skip

    def add(name: str, help: str, **more: Any) -> None:
        parser.add_argument(name, help=f"{help} ({_told(name[2:].replace('-', '_'))})", **more)

    add("--sequences", "fixed sequences to measure, at random", type=at_least(1), metavar="S")
    add("--memory", "for gradients; less costs time", type=float, metavar="GIB")
    add("--mask-unit", "what is masked as a whole", choices=("subword", "whole_word", "span"))
    add("--mask-splits", "masks of a draw", type=at_least(2), metavar="K")
    add("--draws", "of K masks, or of one, from each law", type=at_least(3), metavar="D")
    add("--replicates", "of the bootstrap", type=at_least(100), metavar="R")
    add("--distances", "how many, from 0 to 2 tau", type=at_least(2), metavar="H")
    add("--pairs", "of masks, for each distance", type=at_least(2), metavar="Q")
    add("--reference-masks", "independent masks for each of the two estimates of the mean gradient",
        type=at_least(1), metavar="M")  # fmt: skip
    add("--names", "of the checkpoints, not the files'", nargs="+", metavar="NAME")
    add("--num-masks", "masked positions instead of --mask-prob, one or several numbers of them",
        type=at_least(1), nargs="+", metavar="K")  # fmt: skip
    add("--oracle-rounds", "times that each position's loss is measured", type=at_least(1), metavar="N")
    add("--gradient-rounds", "times that each position's gradient norm is measured; 0: no gradient oracle",
        type=at_least(0), metavar="N")  # fmt: skip
    add("--importance-clip", "not the checkpoint's, else 0.2", type=at_least(0.0), metavar="EPS")


def check(args: argparse.Namespace) -> None:
    own = _DEFAULTS[args.of]
    for name in {name for each in _DEFAULTS.values() for name in each}:
        if getattr(args, name) is None:
            setattr(args, name, own.get(name))
        elif name not in own:
            option = f"--{name.replace('_', '-')}"
            raise argparse.ArgumentError(None, f"{option} belongs to {_told(name)}, not to --of {args.of}")
    if args.of == "distances":
        check_names(args, lambda path: path.stem)
    elif len(args.checkpoint) > 1:
        raise argparse.ArgumentError(None, f"--checkpoint takes one with --of {args.of}")


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.measure.gradient_variance import distances, law_report, splits

    rows, plot = {"splits": splits, "distances": distances, "laws": law_report}[args.of].run(args)
    write_numbers(args, rows)
    if args.figure is not None:
        plot(args.figure)


def _told(name: str) -> str:
    """Which --of takes an option, with the default of each."""
    taken = {of: own[name] for of, own in _DEFAULTS.items() if name in own}
    return "; ".join(of if value is None else f"{of}: {value}" for of, value in taken.items())
