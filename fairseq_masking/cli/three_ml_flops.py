"""three_ml_flops: what pre-training with 3ML costs beside plain masking (2211.04898, Appendix D)."""

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from fairseq_masking.cli.parsing import OneLineParser, run_reporting
from fairseq_masking.errors import UserError
from fairseq_masking.figures.provenance import provenance_of, write_csv
from fairseq_masking.figures.tables import format_table
from fairseq_masking.masking import MaskingConfig
from fairseq_masking.methods.base.sizes import SIZES
from fairseq_masking.methods.three_ml.flops import (
    BASELINE_RATE,
    DECODER_ATTENTIONS,
    ThreeMLShape,
    exact_counts,
    ideal_counts,
    mlm_flops,
    share_saved,
    speedup,
    three_ml_flops,
)

__all__ = ["get_parser", "main"]

_NOTES = """speedup: FLOPs of plain masked language modelling (Eq. 2) at --baseline-mask-prob over those
of 3ML (Eq. 3 and 4) at --mask-prob, for the same encoder and length; "paper" takes the ideal (1 - m*r)n
tokens of its formulas, "whole tokens" what a full block really has, whose two specials are never masked.
GFLOPs: one sequence, forward and backward, as the paper counts (matrix products, backward like forward)."""


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(prog="three_ml_flops", description=__doc__, epilog=_NOTES, allow_abbrev=False)
    parser.add_argument("--size", choices=SIZES, default="base", help="encoder's shape (default: base)")
    parser.add_argument(
        "--decoder-attention", choices=DECODER_ATTENTIONS, nargs="+", default=DECODER_ATTENTIONS
    )
    parser.add_argument("--decoder-layers", type=int, nargs="+", default=[2], metavar="N")
    parser.add_argument(
        "--decoder-embed-dim", type=int, nargs="+", metavar="N", help="default: half of the encoder's width"
    )
    parser.add_argument(
        "--vocab-size", type=int, default=50_265, metavar="N", help="default: 50265, GPT-2's BPE"
    )
    parser.add_argument("--tokens-per-sample", type=int, default=512, metavar="N", help="default: 512")
    parser.add_argument("--mask-prob", type=float, nargs="+", default=[0.4, 0.5], metavar="P")
    parser.add_argument("--leave-unmasked-prob", type=float, default=0.1, metavar="P")
    parser.add_argument("--random-token-prob", type=float, default=0.1, metavar="P")
    parser.add_argument("--baseline-mask-prob", type=float, default=BASELINE_RATE, metavar="P")
    parser.add_argument(
        "--updates", type=int, default=125_000, metavar="N", help="of the baseline (default: 125000)"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="also write the table, unrounded")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = get_parser()
    args = parser.parse_args(argv)
    return run_reporting(parser, lambda: _report(args, argv), args.out)


def _report(args: argparse.Namespace, argv: Sequence[str]) -> None:
    rows = _rows(args)
    if args.out is not None:
        write_csv(args.out, rows, provenance_of(["three_ml_flops", *argv]))
    print(_format(args, rows))


def _rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    least = {"vocab_size": 1, "tokens_per_sample": 4, "updates": 1}
    values = [(name, getattr(args, name), bound) for name, bound in least.items()]
    values += [("decoder_layers", value, 1) for value in args.decoder_layers]
    values += [("decoder_embed_dim", value, 1) for value in args.decoder_embed_dim or ()]
    for name, value, bound in values:
        if value < bound:
            raise UserError(f"--{name.replace('_', '-')} {value}: at least {bound} is needed")
    corruption = {
        "leave_unmasked_prob": args.leave_unmasked_prob,
        "random_token_prob": args.random_token_prob,
    }
    for rate in (*args.mask_prob, args.baseline_mask_prob):
        MaskingConfig(mask_prob=rate, **corruption)  # says what is wrong with them
    widths = args.decoder_embed_dim or [SIZES[args.size].encoder_embed_dim // 2]
    choices = product(args.decoder_attention, args.decoder_layers, widths, args.mask_prob)
    return [_row(args, *choice, corruption) for choice in choices]


def _row(
    args: argparse.Namespace,
    attention: str,
    layers: int,
    width: int,
    rate: float,
    corruption: dict[str, float],
) -> dict[str, Any]:
    encoder = SIZES[args.size]
    shape = ThreeMLShape(
        attention, encoder.encoder_layers, encoder.encoder_embed_dim, layers, width, args.vocab_size
    )
    mask_share = 1 - sum(corruption.values())
    rates = (rate, args.baseline_mask_prob)
    ideal, ideal_baseline = (ideal_counts(args.tokens_per_sample, p, mask_share) for p in rates)
    exact, exact_baseline = (exact_counts(args.tokens_per_sample, p, **corruption) for p in rates)
    faster = speedup(shape, ideal, ideal_baseline)
    return {
        "decoder_attention": attention,
        "decoder_layers": layers,
        "decoder_embed_dim": width,
        "mask_prob": rate,
        "encoder_tokens": exact.num_visible,
        "flops": three_ml_flops(shape, exact),
        "baseline_flops": mlm_flops(
            exact_baseline,
            num_layers=shape.encoder_layers,
            dim=shape.encoder_dim,
            vocab_size=shape.vocab_size,
        ),
        "speedup_paper": faster,
        "speedup_whole_tokens": speedup(shape, exact, exact_baseline),
        "share_saved_paper": share_saved(shape, ideal, ideal_baseline),
        "updates_at_equal_cost": args.updates * faster,
    }


def _format(args: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    header = [
        "3ML decoder",
        "masked",
        "encoder reads",
        "GFLOPs",
        "speedup (paper)",
        "(whole tokens)",
        "saved",
    ]
    header.append(f"updates for the cost of {args.updates:,}")
    cells = [
        [
            f"{row['decoder_attention']}, {row['decoder_layers']} x {row['decoder_embed_dim']}",
            f"{row['mask_prob']:.0%}",
            f"{row['encoder_tokens']:.0f} of {args.tokens_per_sample}",
            f"{row['flops'] / 1e9:.1f}",
            f"{row['speedup_paper']:.3f}",
            f"{row['speedup_whole_tokens']:.3f}",
            f"{row['share_saved_paper']:.1%}",
            f"{row['updates_at_equal_cost']:,.0f}",
        ]
        for row in rows
    ]
    title = (
        f"{args.size} encoder, {args.tokens_per_sample} tokens, |V| = {args.vocab_size:,}; plain masking of"
        f" {args.baseline_mask_prob:.0%}: {rows[0]['baseline_flops'] / 1e9:.1f} GFLOPs a sequence"
    )
    return f"{title}\n\n{format_table(header, cells)}"


if __name__ == "__main__":
    sys.exit(main())
