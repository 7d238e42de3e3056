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
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fairseq_masking.cli.options import add_figure, add_measured, at_least, write_numbers
from fairseq_masking.errors import UserError
from fairseq_masking.measure import CORRUPTIONS

__all__ = ["add_options", "run"]

Measured = tuple[list[dict[str, Any]], Callable[[Path], None]]  # rows, and what draws them

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
    """Add the verb's options."""
    parser.add_argument("--of", choices=list(_DEFAULTS), default="splits", help="see above (default: splits)")
    add_measured(parser, of="of mlm or three_ml; laws: of map_net too", split="train", several=True,
                 mask_prob=_told("mask_prob"), seed="of sequences, masks and resampling")  # fmt: skip
    add_figure(parser)
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


def run(args: argparse.Namespace) -> None:
    """Measure, print the tables, write file and figure."""
    _complete(args)
    from fairseq_masking import register

    register()
    started = time.perf_counter()
    rows, plot = {"splits": _splits, "distances": _distances, "laws": _laws}[args.of](args)
    write_numbers(args, rows, since=started)
    if args.figure is not None:
        plot(args.figure)


def _told(name: str) -> str:
    """Which --of takes an option, with the default of each."""
    taken = {of: own[name] for of, own in _DEFAULTS.items() if name in own}
    return "; ".join(of if value is None else f"{of}: {value}" for of, value in taken.items())


def _complete(args: argparse.Namespace) -> None:
    """Refuse options of another --of, and fill in the defaults of this one."""
    own = _DEFAULTS[args.of]
    for name in {name for each in _DEFAULTS.values() for name in each}:
        if getattr(args, name) is None:
            setattr(args, name, own.get(name))
        elif name not in own:
            raise argparse.ArgumentError(
                None, f"--{name.replace('_', '-')} belongs to {_told(name)}, not to --of {args.of}"
            )
    if args.of == "distances":
        args.names = args.names or [path.stem for path in args.checkpoint]
        if len(args.names) != len(args.checkpoint) or len(set(args.names)) != len(args.names):
            raise argparse.ArgumentError(None, "--names takes a name of its own for each --checkpoint")
    elif len(args.checkpoint) > 1:
        raise argparse.ArgumentError(None, f"--checkpoint takes one with --of {args.of}")


def _load(args: argparse.Namespace, path: Path, **masking: Any) -> tuple[Any, Any]:
    """A checkpoint, and how it is measured."""
    from fairseq_masking.corpus.dictionary import masking_vocabulary
    from fairseq_masking.masking import MaskingConfig
    from fairseq_masking.measure.gradient_variance.gradients import select_parameters
    from fairseq_masking.measure.gradient_variance.measurement import Measurement
    from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
    from fairseq_masking.models import MLMModel

    hub = MLMModel.from_pretrained(path, data=args.data)
    if args.of != "laws" and not issubclass(type(hub.model).output_class, MaskedTokenOutput):
        raise UserError(f"{path} is a {type(hub.model).__name__}: masks of a fixed law need mlm or three_ml")
    leave, random = CORRUPTIONS[args.corruption]
    config = MaskingConfig(
        mask_prob=args.mask_prob,
        leave_unmasked_prob=leave,
        random_token_prob=random,
        seed=args.seed,
        **masking,
    )
    need_words = config.unit != "subword"
    return hub, Measurement(
        model=hub.model,
        parameters=select_parameters(hub.model, args.parameters),
        config=config,
        vocabulary=masking_vocabulary(hub.dictionary, folder=args.data, need_words=need_words),
        scale=args.loss,
        memory=int(args.memory * 2**30),
    )


def _choose(args: argparse.Namespace, hub: Any, fits: Callable[[Any], bool]) -> list[tuple[int, Any]]:
    """Index and tokens of the sequences."""
    from fairseq_masking.measure.sequences import choose_sequences, load_blocks, sequence_length

    length = sequence_length(hub, args.tokens_per_sample)
    blocks = load_blocks(args.data, args.split, hub.dictionary, tokens_per_sample=length)
    return choose_sequences(blocks, args.sequences, fits, seed=args.seed, source=args.data / args.split)


def _splits(args: argparse.Namespace) -> Measured:
    import numpy as np
    from tqdm import tqdm

    from fairseq_masking.measure.gradient_variance.draws import count_masked
    from fairseq_masking.measure.gradient_variance.figure import plot_splits
    from fairseq_masking.measure.gradient_variance.measurement import measure_splits
    from fairseq_masking.measure.gradient_variance.report import row_table, split_rows

    (path,), num_masks = args.checkpoint, args.mask_splits
    hub, measurement = _load(args, path, unit=args.mask_unit, num_splits=num_masks)
    count = partial(count_masked, config=measurement.config, vocabulary=measurement.vocabulary)
    sequences = _choose(args, hub, lambda tokens_T: count(tokens_T)[0] > 0)
    measured = measure_splits(
        measurement, tqdm(sequences, unit="sequence", disable=None),
        num_draws=args.draws, num_replicates=args.replicates, num_kept=len(sequences),
    )  # fmt: skip
    indices, texts = zip(*sequences, strict=True)
    rng = np.random.default_rng(args.seed)
    rows = split_rows(indices, [count(t) for t in texts], list(measured), num_masks, args.replicates, rng)
    print(f"{path}: {len(sequences)} sequences, {args.draws} draws of {num_masks} masks a law")
    print(row_table(rows))
    return rows, partial(plot_splits, rows, title=args.note or str(path))


def _distances(args: argparse.Namespace) -> Measured:
    import numpy as np
    from tqdm import tqdm

    from fairseq_masking.measure.gradient_variance.covariance import covariance_curve, hamming_distances
    from fairseq_masking.measure.gradient_variance.draws import count_masked
    from fairseq_masking.measure.gradient_variance.figure import plot_distances
    from fairseq_masking.measure.gradient_variance.measurement import measure_distances
    from fairseq_masking.measure.gradient_variance.report import (
        describe_monotonicity,
        distance_rows,
        row_table,
    )

    curves, rows = {}, []
    for path, name in zip(args.checkpoint, args.names, strict=True):
        hub, measurement = _load(args, path)
        count = partial(count_masked, config=measurement.config, vocabulary=measurement.vocabulary)
        sequences = _choose(args, hub, lambda tokens_T, count=count: count(tokens_T)[0] > 0)
        counts = [count(tokens_T) for _, tokens_T in sequences]
        tau, sizes = counts[0][0], [num_maskable for _, num_maskable in counts]
        distances = hamming_distances(tau, min(sizes), args.distances)
        values_HSQ = measure_distances(
            measurement, tqdm(sequences, unit="sequence", desc=name, disable=None), distances,
            num_pairs=args.pairs, num_reference=args.reference_masks,
        )  # fmt: skip
        curves[name] = covariance_curve(distances, values_HSQ[:-1])
        own_rows = distance_rows(name, tau, distances, values_HSQ)
        rows += own_rows
        print(f"{name}: {len(sequences)} sequences, {args.pairs} pairs for each distance")
        print(row_table(own_rows))
        print(describe_monotonicity(curves[name], tau, float(np.mean(sizes))))
    return rows, partial(plot_distances, curves, title=args.note)


def _laws(args: argparse.Namespace) -> Measured:
    import numpy as np
    from tqdm import tqdm

    from fairseq_masking.masking import num_masked
    from fairseq_masking.measure.gradient_variance.draws import maskable_columns
    from fairseq_masking.measure.gradient_variance.figure import plot_laws
    from fairseq_masking.measure.gradient_variance.laws import WEIGHTINGS
    from fairseq_masking.measure.gradient_variance.measurement import measure_laws, measured_laws
    from fairseq_masking.measure.gradient_variance.report import (
        estimator_rows,
        estimator_table,
        law_rows,
        law_table,
    )
    from fairseq_masking.measure.sequences import sequence_length

    (path,) = args.checkpoint
    hub, measurement = _load(args, path)
    length = sequence_length(hub, args.tokens_per_sample)
    counts = sorted(set(args.num_masks or [num_masked(length - 2, length - 2, args.mask_prob)]))
    chosen = _choose(
        args, hub, lambda tokens_T: len(maskable_columns(tokens_T, measurement.vocabulary)) > counts[-1]
    )
    trained_with = getattr(getattr(hub.cfg, "criterion", None), "importance_clip", None)
    clip = float(next(v for v in (args.importance_clip, trained_with, 0.2) if v is not None))
    rounds = {"oracle_rounds": args.oracle_rounds, "gradient_rounds": args.gradient_rounds}
    if not hasattr(hub.model, "propose"):
        print(f"{path} has no proposal network: uniform masks and oracles only")
    rows: list[dict[str, Any]] = []
    for count in counts:
        started = time.perf_counter()
        sequences = [
            (index, tokens_T, measured_laws(measurement, index, tokens_T, count, **rounds))
            for index, tokens_T in tqdm(chosen, unit="sequence", desc="oracles", disable=None)
        ]
        indices, _, laws = zip(*sequences, strict=True)
        measured = measure_laws(
            measurement, tqdm(sequences, unit="sequence", desc=f"k = {count}", disable=None),
            num_masked=count, num_draws=args.draws, num_replicates=args.replicates, clip=clip,
            num_kept=(1 + len(laws[0]) * len(WEIGHTINGS)) * len(sequences),
        )  # fmt: skip
        rng = np.random.default_rng(args.seed)
        rows += estimator_rows(indices, count, list(measured), args.replicates, rng)
        rows += law_rows(indices, count, laws, args.replicates, rng)
        print(estimator_table(rows, count), law_table(rows, count), sep="\n\n", end="\n\n")
        print(
            f"k = {count} of {length - 2} tokens, {len(sequences)} sequences, {args.draws} draws a law,"
            f" clip {clip:g}, {time.perf_counter() - started:.0f} s\n"
        )
    return rows, partial(plot_laws, rows, title=args.note or str(path))
