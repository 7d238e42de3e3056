"""proposal_variance: measures MAP-Net's variance claim (2008.05333, Theorem 1 and 2) on a checkpoint.

Masks from the uniform law, from the checkpoint's proposal network, and from laws proportional to each
position's loss and to its gradient's norm; the gradient with the weights of Eq. 5, with the clipped one that
MAP-Net trains with, and with none.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from fairseq_masking.cli.parsing import OneLineParser, at_least, run_reporting
from fairseq_masking.figures.provenance import provenance_of, write_csv
from fairseq_masking.figures.tables import format_table
from fairseq_masking.masking import num_masked
from fairseq_masking.measure.gradient_variance.mask_laws import WEIGHTINGS, law_proportional_to
from fairseq_masking.measure.gradient_variance.mask_measurement import Measurement
from fairseq_masking.measure.gradient_variance.position_difficulty import (
    covering_masks,
    gradient_norms_of_positions,
    losses_of_positions,
)
from fairseq_masking.measure.gradient_variance.proposal_report import (
    estimator_rows,
    estimator_table,
    law_rows,
    law_table,
)
from fairseq_masking.measure.gradient_variance.proposal_variance import measure_proposals
from fairseq_masking.measure.measurements import CORRUPTIONS, measurement_of, sequence_length
from fairseq_masking.measure.sequences import choose_sequences, load_blocks
from fairseq_masking.models import MLMModel

__all__ = ["get_parser", "main"]

_ENCODER = r"^(?!proposal\.)"  # the loss says nothing about a proposal network's own parameters
_EPILOG = """Losses are in nats, gradients those of a mask's mean cross-entropy; variances are traces of
covariance matrices; dropout is off. Laws: a position's loss (loss oracle) and the root mean square of its
gradient's norm (gradient oracle) are those over uniform masks that contain it. Weights: set, Eq. 5's ratio
of a mask's probabilities; ordered, that of its draws in their order; clipped, the paper's, clipped by
--importance-clip; none, 1. The last two are biased. "direct" is from a law's own draws; of the unbiased
weights the mask variance is taken from uniform masks, which is more precise. Where few draws are effective,
what a law's own draws say of a weight (direct, sentence variance, bias, cosine) says little, and the
intervals are too narrow."""

Tokens = npt.NDArray[np.int64]
Law = npt.NDArray[np.float64]


class _Sequence(NamedTuple):
    index: int
    tokens_T: Tokens
    laws: dict[str, Law]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="proposal_variance", description=__doc__, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="map_net, or another without proposal")
    add("--data", type=Path, required=True, metavar="DIR", help="prepared corpus that it was trained on")
    add("--split", default="train", help="of the corpus that sequences are taken from")
    add("--tokens-per-sample", type=int, metavar="T", help="tokens of a sequence (default: the training's)")
    add("--sequences", type=int, default=16, metavar="S", help="fixed sequences to measure, at random")
    add("--mask-prob", type=float, default=0.15, metavar="P", help="share of a sequence that a mask takes")
    add("--num-masks", type=int, nargs="+", metavar="K",
        help="masked positions instead, one or several numbers of them")  # fmt: skip
    add("--draws", type=int, default=64, metavar="D", help="masks of each law")
    add("--oracle-rounds", type=int, default=8, metavar="N",
        help="times that each position's loss is measured")  # fmt: skip
    add("--gradient-rounds", type=int, default=2, metavar="N",
        help="times that each position's gradient norm is measured; 0: no gradient oracle")  # fmt: skip
    add("--importance-clip", type=float, metavar="EPS", help="default: the checkpoint's, else 0.2")
    add("--corruption", choices=CORRUPTIONS, default="mask",
        help="mask: always [MASK], as the paper's algebra; bert: 80/10/10")  # fmt: skip
    add(
        "--parameters",
        metavar="REGEX",
        default=_ENCODER,
        help="differentiate by parameters whose name matches",
    )
    add("--replicates", type=int, default=1000, metavar="R", help="of the bootstrap")
    add("--seed", type=int, default=1, help="of sequences, masks and resampling")
    add("--memory", type=float, default=4.0, metavar="GIB", help="for gradients")
    add("--out", type=Path, metavar="CSV", help="file for the numbers, with what reproduces them")
    add("--figure", type=Path, metavar="PNG", help="file for the figure")
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
    rows = _measure(args)
    if args.out is not None:
        command = ["proposal_variance", *argv]
        write_csv(args.out, rows, provenance_of(command, [args.checkpoint], since=start, note=args.note))
    if args.figure is not None:
        from fairseq_masking.measure.gradient_variance.proposal_figures import (
            plot_laws,  # matplotlib takes its time
        )

        plot_laws(rows, args.figure, title=args.note or str(args.checkpoint))


def _check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    at_least(parser, args, sequences=1, seed=0, draws=3, replicates=100, oracle_rounds=1, gradient_rounds=0)
    for count in args.num_masks or ():
        if count < 1:
            parser.error(f"--num-masks {count} is below 1")
    if args.importance_clip is not None and not args.importance_clip >= 0:
        parser.error(f"--importance-clip {args.importance_clip} is below 0")


def _measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    hub = MLMModel.from_pretrained(args.checkpoint, data=args.data)
    measurement, clip = measurement_of(hub, args), _clip(args, hub)
    length = sequence_length(hub, args.tokens_per_sample)
    blocks = load_blocks(args.data, args.split, hub.dictionary, tokens_per_sample=length)
    counts = sorted(set(args.num_masks or [num_masked(length - 2, length - 2, args.mask_prob)]))
    chosen = choose_sequences(
        blocks,
        args.sequences,
        lambda tokens: len(_maskable(measurement, tokens)) > counts[-1],
        seed=args.seed,
        source=args.data / args.split,
    )
    if not _has_proposal(hub.model):
        print(f"{args.checkpoint} has no proposal network: uniform masks and oracles only")
    rows: list[dict[str, Any]] = []
    for count in counts:
        started = time.perf_counter()
        rows += _measure_one(args, measurement, chosen, count, clip)
        for table in (estimator_table, law_table):
            print(format_table(*table(rows, count)), end="\n\n")
        print(
            f"k = {count} of {length - 2} tokens, {len(chosen)} sequences, {args.draws} draws a law,"
            f" clip {clip:g}, {time.perf_counter() - started:.0f} s\n"
        )
    return rows


def _measure_one(
    args: argparse.Namespace,
    measurement: Measurement,
    chosen: Sequence[tuple[int, Tokens]],
    count: int,
    clip: float,
) -> list[dict[str, Any]]:
    sequences = [
        _Sequence(index, tokens_T, _laws(args, measurement, index, tokens_T, count))
        for index, tokens_T in tqdm(chosen, unit="sequence", desc="oracles", disable=None)
    ]
    num_estimators = 1 + len(sequences[0].laws) * len(WEIGHTINGS)
    measured = list(
        measure_proposals(
            measurement,
            tqdm(sequences, unit="sequence", desc=f"k = {count}", disable=None),
            num_masked=count,
            num_draws=args.draws,
            num_replicates=args.replicates,
            clip=clip,
            num_kept=num_estimators * len(sequences),
        )
    )
    indices = [sequence.index for sequence in sequences]
    rng = np.random.default_rng(args.seed)
    rows = estimator_rows(indices, count, measured, args.replicates, rng)
    return rows + law_rows(indices, count, [each.laws for each in sequences], args.replicates, rng)


def _laws(
    args: argparse.Namespace, measurement: Measurement, index: int, tokens_T: Tokens, count: int
) -> Mapping[str, Law]:
    """Log p of the laws other than the uniform one."""
    model, maskable_n = measurement.model, _maskable(measurement, tokens_T)
    maskable_T = np.zeros(len(tokens_T), dtype=np.bool_)
    maskable_T[maskable_n] = True
    mask_index = measurement.vocabulary.mask_index
    rng = np.random.default_rng((args.seed, index, count))
    laws = {}
    if _has_proposal(model):
        laws["proposal"] = _proposal(model, tokens_T)
    masks = covering_masks(maskable_n, count, mask_index, num_rounds=args.oracle_rounds, rng=rng)
    laws["loss oracle"] = law_proportional_to(losses_of_positions(model, tokens_T, masks), maskable_T)
    if args.gradient_rounds:
        masks = covering_masks(maskable_n, count, mask_index, num_rounds=args.gradient_rounds, rng=rng)
        norms_T = gradient_norms_of_positions(model, tokens_T, masks, measurement.parameters)
        laws["gradient oracle"] = law_proportional_to(norms_T, maskable_T)
    return laws


@torch.no_grad()
def _proposal(model: Any, tokens_T: Tokens) -> Law:
    tokens_1T = torch.from_numpy(np.ascontiguousarray(tokens_T))[None]
    log_p_T = model.eval().propose(tokens_1T)[0].double()
    return (log_p_T - log_p_T.logsumexp(0)).numpy()


def _has_proposal(model: Any) -> bool:
    return hasattr(model, "propose")


def _maskable(measurement: Measurement, tokens_T: Tokens) -> npt.NDArray[np.int64]:
    return np.flatnonzero(~measurement.vocabulary.special[tokens_T[1:-1]]) + 1


def _clip(args: argparse.Namespace, hub: Any) -> float:
    trained_with = getattr(getattr(hub.cfg, "criterion", None), "importance_clip", None)
    return float(next(value for value in (args.importance_clip, trained_with, 0.2) if value is not None))


if __name__ == "__main__":
    sys.exit(main())
