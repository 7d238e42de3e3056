"""gradient_variance: measures what 2010.06040 claims about masks, on a checkpoint and a prepared corpus."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fairseq_masking.cli.parsing import OneLineParser, at_least, run_reporting
from fairseq_masking.data import BlockDataset
from fairseq_masking.errors import UserError
from fairseq_masking.figures.provenance import provenance_of, write_csv
from fairseq_masking.measure.gradient_variance.mask_covariance import covariance_curve, hamming_distances
from fairseq_masking.measure.gradient_variance.mask_draws import count_masked
from fairseq_masking.measure.gradient_variance.mask_measurement import (
    Measurement,
    measure_covariance,
    measure_variance,
)
from fairseq_masking.measure.gradient_variance.mask_report import (
    covariance_rows,
    describe_monotonicity,
    format_rows,
    variance_rows,
)
from fairseq_masking.measure.measurements import CORRUPTIONS, measurement_of, sequence_length
from fairseq_masking.measure.sequences import choose_sequences, load_blocks
from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
from fairseq_masking.models import MLMModel

__all__ = ["get_parser", "main"]

_EPILOG = """Losses are in nats, gradients those of a mask's cross-entropies, summed and divided by their
number (--loss); variances are traces of covariance matrices; dropout is off. Sequences are full blocks, drawn
by --seed."""


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(prog="gradient_variance", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="variance|covariance")

    variance = _add_command(
        commands, "variance", "K independent against K disjoint masks (Theorem 1, Eq. 5-10)", mask_prob=0.15
    )
    variance.add_argument("--mask-unit", choices=("subword", "whole_word", "span"), default="subword")
    variance.add_argument("--mask-splits", type=int, default=4, metavar="K", help="masks of a draw")
    variance.add_argument("--draws", type=int, default=64, metavar="D", help="of K masks, for each law")
    variance.add_argument("--replicates", type=int, default=2000, metavar="R", help="of the bootstrap")

    covariance = _add_command(
        commands, "covariance", "covariance by Hamming distance of two masks (Fig. 2, 3)", mask_prob=0.25
    )
    covariance.add_argument("--distances", type=int, default=9, metavar="H", help="how many, from 0 to 2 tau")
    covariance.add_argument("--pairs", type=int, default=64, metavar="Q", help="of masks, for each distance")
    covariance.add_argument("--reference-masks", type=int, default=128, metavar="M",
        help="independent masks for each of the two estimates of the mean gradient")  # fmt: skip
    covariance.add_argument("--names", nargs="+", metavar="NAME", help="of the checkpoints in the figures")
    covariance.add_argument("--figures", type=Path, metavar="DIR", help="folder for the two PNG files")
    return parser


def _add_command(commands: Any, name: str, text: str, *, mask_prob: float) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="prepared corpus that the checkpoint was trained on")
    several = name == "covariance"
    add("--path", type=Path, nargs="+" if several else 1, required=True, metavar="CHECKPOINT",
        help="trained with --task masked_pretraining" + (" (one or two)" if several else ""))  # fmt: skip
    add("--split", default="train", help="of the corpus that sequences are taken from")
    add("--tokens-per-sample", type=int, default=512, metavar="T", help="tokens of a sequence")
    add("--sequences", type=int, default=8, metavar="S", help="fixed sequences to measure, at random")
    add(
        "--mask-prob",
        type=float,
        default=mask_prob,
        metavar="P",
        help="share of a sequence that a mask takes",
    )
    add("--corruption", choices=CORRUPTIONS, default="mask",
        help="mask: always [MASK], as the paper's algebra; bert: 80/10/10")  # fmt: skip
    add(
        "--loss",
        choices=("mean", "sum"),
        default="mean",
        help="sum: Eq. 1; mean: divided by the number of masked tokens",
    )
    add("--parameters", metavar="REGEX", help="differentiate by parameters whose name matches (default: all)")
    add("--seed", type=int, default=1, help="of sequences, masks and resampling")
    add("--memory", type=float, default=2.0, metavar="GIB", help="for gradients; less costs time")
    add("--out", type=Path, metavar="CSV", help="file for the numbers, with what reproduces them")
    add("--note", default="", metavar="TEXT", help="kept in the file, such as how the checkpoint was trained")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = get_parser()
    args = parser.parse_args(argv)
    _check_options(parser, args)
    return run_reporting(parser, lambda: _report(args, argv), args.out, args.data)


def _report(args: argparse.Namespace, argv: Sequence[str]) -> None:
    start = time.perf_counter()
    rows = _variance(args) if args.command == "variance" else _covariance(args)
    if args.out is not None:
        command = ["gradient_variance", *argv]
        write_csv(args.out, rows, provenance_of(command, args.path, since=start, note=args.note))


def _check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    at_least(parser, args, sequences=1, seed=0, mask_splits=2, draws=3, replicates=100)
    at_least(parser, args, distances=2, pairs=2, reference_masks=1)
    if args.command == "covariance":
        args.names = args.names or [path.stem for path in args.path]
        if len(args.path) > 2 or len(args.names) != len(args.path) or len(set(args.names)) != len(args.names):
            parser.error("--path takes one or two checkpoints, --names a name of its own for each")


def _variance(args: argparse.Namespace) -> list[dict[str, Any]]:
    measurement, blocks = _load(args, args.path[0], unit=args.mask_unit, num_splits=args.mask_splits)
    sequences = _choose_sequences(args, measurement, blocks)
    measured = measure_variance(
        measurement,
        tqdm(sequences, unit="sequence", disable=None),
        num_draws=args.draws,
        num_replicates=args.replicates,
        num_kept=len(sequences),
    )
    counts = [count_masked(tokens, measurement.config, measurement.vocabulary) for _, tokens in sequences]
    rng = np.random.default_rng(args.seed)
    rows = variance_rows(
        [index for index, _ in sequences], counts, list(measured), args.mask_splits, args.replicates, rng
    )
    print(f"{args.path[0]}: {len(sequences)} sequences, {args.draws} draws of {args.mask_splits} masks a law")
    print(format_rows(rows))
    return rows


def _covariance(args: argparse.Namespace) -> list[dict[str, Any]]:
    curves, rows = {}, []
    for path, name in zip(args.path, args.names, strict=True):
        measurement, blocks = _load(args, path, unit="subword", num_splits=1)
        sequences = _choose_sequences(args, measurement, blocks)
        counts = [count_masked(tokens, measurement.config, measurement.vocabulary) for _, tokens in sequences]
        tau, fewest = counts[0][0], min(num_maskable for _, num_maskable in counts)
        distances = hamming_distances(tau, fewest, args.distances)
        values_HSQ = measure_covariance(
            measurement,
            tqdm(sequences, unit="sequence", desc=name, disable=None),
            distances,
            num_pairs=args.pairs,
            num_reference=args.reference_masks,
        )
        curves[name] = covariance_curve(distances, values_HSQ[:-1])
        own_rows = covariance_rows(name, tau, distances, values_HSQ)
        rows += own_rows
        print(f"{name}: {len(sequences)} sequences, {args.pairs} pairs for each distance")
        print(format_rows(own_rows))
        print(describe_monotonicity(curves[name], tau, float(np.mean([m for _, m in counts]))))
    if args.figures is not None:
        # Here and not above: matplotlib takes its time, and no other measurement needs it.
        from fairseq_masking.measure.gradient_variance.mask_figures import (
            plot_covariance_by_distance,
            plot_covariance_distributions,
        )

        plot_covariance_distributions(curves, args.figures / "gradient_covariance_distributions.png")
        plot_covariance_by_distance(curves, args.figures / "gradient_covariance_by_distance.png")
    return rows


def _load(args: argparse.Namespace, path: Path, **masking: Any) -> tuple[Measurement, BlockDataset]:
    hub = MLMModel.from_pretrained(path, data=args.data)
    if not issubclass(type(hub.model).output_class, MaskedTokenOutput):
        raise UserError(f"{path} is a {type(hub.model).__name__}: masks of a fixed law need mlm or three_ml")
    length = sequence_length(hub, args.tokens_per_sample)
    measurement = measurement_of(hub, args, **masking)
    return measurement, load_blocks(args.data, args.split, hub.dictionary, tokens_per_sample=length)


def _choose_sequences(
    args: argparse.Namespace, measurement: Measurement, blocks: BlockDataset
) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """Full blocks at random, without repetition; the same for every checkpoint."""
    return choose_sequences(
        blocks,
        args.sequences,
        lambda tokens: count_masked(tokens, measurement.config, measurement.vocabulary)[0] > 0,
        seed=args.seed,
        source=args.data / args.split,
    )


if __name__ == "__main__":
    sys.exit(main())
