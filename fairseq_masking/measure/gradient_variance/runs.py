"""From checkpoints to rows, tables and a figure: what ``measure variance`` does, for each of its --of.

The options of all functions are those of ``cli/measure_variance.py``.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskingConfig, num_masked
from fairseq_masking.measure import CORRUPTIONS
from fairseq_masking.measure.gradient_variance import figure, report
from fairseq_masking.measure.gradient_variance.covariance import CovarianceCurve, covariance_curve, hamming_distances
from fairseq_masking.measure.gradient_variance.draws import FixedSequence
from fairseq_masking.measure.gradient_variance.gradients import select_parameters
from fairseq_masking.measure.gradient_variance.laws import WEIGHTINGS
from fairseq_masking.measure.gradient_variance.measurement import (
    Measurement,
    measure_distances,
    measure_laws,
    measure_splits,
    measured_laws,
)
from fairseq_masking.measure.sequences import choose_sequences, load_blocks, sequence_length
from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
from fairseq_masking.models import MLMModel

__all__ = ["Measured", "distances", "laws", "splits"]

Measured = tuple[list[report.Row], Callable[[Path], None]]  # rows, and what draws them


def splits(args: argparse.Namespace) -> Measured:
    """Measure K independent against K disjoint masks; print the table."""
    (path,), num_masks = args.checkpoint, args.mask_splits
    hub, measurement = _load(args, path, unit=args.mask_unit, num_splits=num_masks)
    sequences = _choose(args, hub, measurement)
    measured = [
        measure_splits(
            measurement, sequence, num_draws=args.draws, num_replicates=args.replicates,
            num_kept=len(sequences),
        )
        for sequence in _shown(sequences)
    ]  # fmt: skip
    rows = report.split_rows(sequences, measured, args.replicates, np.random.default_rng(args.seed))
    print(f"{path}: {len(sequences)} sequences, {args.draws} draws of {num_masks} masks a law")
    print(report.row_table(rows))
    return rows, partial(figure.plot_splits, rows, title=args.note or str(path))


def distances(args: argparse.Namespace) -> Measured:
    """Measure covariance by Hamming distance, checkpoint by checkpoint; print a table of each."""
    curves: dict[str, CovarianceCurve] = {}
    rows: list[report.Row] = []
    for path, name in zip(args.checkpoint, args.names, strict=True):
        hub, measurement = _load(args, path)
        sequences = _choose(args, hub, measurement)
        tau, sizes = sequences[0].tau, [len(sequence.columns_m) for sequence in sequences]
        wanted = hamming_distances(tau, min(sizes), args.distances)
        values_SHQ = [
            measure_distances(measurement, sequence, wanted, num_pairs=args.pairs, num_reference=args.reference_masks)
            for sequence in _shown(sequences, name)
        ]
        values_HSQ = np.stack(values_SHQ, axis=1)
        curves[name] = covariance_curve(wanted, values_HSQ[:-1])
        own_rows = report.distance_rows(name, tau, wanted, values_HSQ)
        rows += own_rows
        print(f"{name}: {len(sequences)} sequences, {args.pairs} pairs for each distance")
        print(report.row_table(own_rows))
        print(report.describe_monotonicity(curves[name], tau, float(np.mean(sizes))))
    return rows, partial(figure.plot_distances, curves, title=args.note)


def laws(args: argparse.Namespace) -> Measured:
    """Measure the laws of masks, for each number of masked positions; print two tables of each."""
    (path,) = args.checkpoint
    hub, measurement = _load(args, path)
    size = sequence_length(hub, args.tokens_per_sample) - 2
    counts = sorted(set(args.num_masks or [num_masked(size, size, args.mask_prob)]))
    sequences = _choose(args, hub, measurement, more_than=counts[-1])
    trained_with = getattr(getattr(hub.cfg, "criterion", None), "importance_clip", None)
    clip = float(next(v for v in (args.importance_clip, trained_with, 0.2) if v is not None))
    rounds = {"oracle_rounds": args.oracle_rounds, "gradient_rounds": args.gradient_rounds}
    if not hasattr(hub.model, "propose"):
        print(f"{path} has no proposal network: uniform masks and oracles only")
    rows: list[report.Row] = []
    for count in counts:
        started = time.perf_counter()
        others = [measured_laws(measurement, sequence, count, **rounds) for sequence in _shown(sequences, "oracles")]
        num_kept = (1 + len(others[0]) * len(WEIGHTINGS)) * len(sequences)
        measured = [
            measure_laws(
                measurement, sequence, its_laws, num_masked=count, num_draws=args.draws,
                num_replicates=args.replicates, clip=clip, num_kept=num_kept,
            )
            for sequence, its_laws in zip(_shown(sequences, f"k = {count}"), others, strict=True)
        ]  # fmt: skip
        of = {"num_masked": count, "sequence": f"mean of {len(sequences)}"}
        rng = np.random.default_rng(args.seed)
        rows += report.estimator_rows(of, sequences, measured, args.replicates, rng)
        rows += report.law_rows(of, others, args.replicates, rng)
        print(report.estimator_table(rows, count), report.law_table(rows, count), sep="\n\n", end="\n\n")
        print(
            f"k = {count} of {size} tokens, {len(sequences)} sequences, {args.draws} draws a law,"
            f" clip {clip:g}, {time.perf_counter() - started:.0f} s\n"
        )
    return rows, partial(figure.plot_laws, rows, title=args.note or str(path))


def _load(args: argparse.Namespace, path: Path, **masking: Any) -> tuple[Any, Measurement]:
    """A checkpoint, and how it is measured."""
    hub: Any = MLMModel.from_pretrained(path, data=args.data)
    if args.of != "laws" and not issubclass(type(hub.model).output_class, MaskedTokenOutput):
        raise UserError(f"{path} is a {type(hub.model).__name__}: masks of a fixed law need mlm or three_ml")
    leave, random = CORRUPTIONS[args.corruption]
    shares: dict[str, Any] = {"leave_unmasked_prob": leave, "random_token_prob": random}
    config = MaskingConfig(mask_prob=args.mask_prob, seed=args.seed, **shares, **masking)
    need_words = config.unit != "subword"
    return hub, Measurement(
        model=hub.model,
        parameters=select_parameters(hub.model, args.parameters),
        config=config,
        vocabulary=masking_vocabulary(hub.dictionary, folder=args.data, need_words=need_words),
        scale=args.loss,
        memory=int(args.memory * 2**30),
    )


def _choose(
    args: argparse.Namespace, hub: Any, measurement: Measurement, *, more_than: int | None = None
) -> list[FixedSequence]:
    """Sequences with more maskable tokens than that, or enough for their masks."""
    length = sequence_length(hub, args.tokens_per_sample)
    blocks = load_blocks(args.data, args.split, hub.dictionary, tokens_per_sample=length)

    def fits(tokens_T: Any) -> bool:
        sequence = measurement.sequence(0, tokens_T)
        return sequence.tau > 0 if more_than is None else len(sequence.columns_m) > more_than

    chosen = choose_sequences(blocks, args.sequences, fits, seed=args.seed, source=args.data / args.split)
    return [measurement.sequence(index, tokens_T) for index, tokens_T in chosen]


def _shown(sequences: list[FixedSequence], name: str | None = None) -> Iterable[FixedSequence]:
    """The sequences, with a bar of progress in a terminal."""
    return tqdm(sequences, unit="sequence", desc=name, disable=None)
