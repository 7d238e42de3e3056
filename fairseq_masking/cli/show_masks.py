"""show_masks: shows where a checkpoint masks text (MAP-Net's case study, 2008.05333, Fig. 2).

Each token's background tells how likely it is to be masked, brackets or frames which positions one draw
takes; in a terminal, and as an HTML page. A checkpoint without proposal network masks uniformly; --law oracle
shows the encoder's own loss of each position instead.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fairseq_masking.cli.parsing import OneLineParser, run_reporting
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskingConfig
from fairseq_masking.measure.measurements import sequence_length
from fairseq_masking.measure.show.mask_page import render_page
from fairseq_masking.measure.show.mask_terminal import legend_line, render_blocks
from fairseq_masking.measure.show.shown_masks import LawName, ShownBlock, show_masks
from fairseq_masking.measure.show.shown_text import (
    add_page_options,
    add_text_options,
    check_least,
    print_text,
    read_texts,
    terminal_width,
    wants_colour,
    write_page,
)
from fairseq_masking.measure.show.text_blocks import cut_texts
from fairseq_masking.methods.map_net.ragged import rank_correlation
from fairseq_masking.models import MLMModel

__all__ = ["get_parser", "main"]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="show_masks", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="of any method")
    add_text_options(parser)
    add("--law", choices=("auto", "proposal", "uniform", "oracle"), default="auto",
        help="proposal: the checkpoint's network. oracle: proportional to the encoder's loss."
        " auto: the proposal where there is one, else uniform (default)")  # fmt: skip
    add("--losses", action="store_true", help="measure the encoder's loss of each position as well")
    add("--seed", type=int, default=1, help="of the drawn masks")
    add("--no-numbers", action="store_true", help="leave the numbers under the tokens out")
    add_page_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_least(parser, args, seed=0)
    return run_reporting(parser, lambda: _show(args), args.html)


def _show(args: argparse.Namespace) -> None:
    MaskingConfig(mask_prob=args.mask_prob)  # says what is wrong with it
    texts = read_texts(args)
    hub = MLMModel.from_pretrained(args.checkpoint, data=args.data)
    law, notice = _law(args, hub)
    blocks = cut_texts(hub, texts, sequence_length(hub, args.tokens_per_sample))
    special_V = masking_vocabulary(hub.dictionary, folder=Path()).special
    shown = list(
        show_masks(
            hub,
            blocks,
            special_V,
            law=law,
            mask_prob=args.mask_prob,
            num_masks=args.num_masks,
            with_losses=args.losses,
            seed=args.seed,
        )
    )
    if args.html is None:
        _print(args, shown)
    print_text(_summary(shown, law))
    if notice:
        print_text(notice)
    if args.html is not None:
        write_page(args.html, _page(args, shown, law, notice))


def _law(args: argparse.Namespace, hub: Any) -> tuple[LawName, str | None]:
    proposes = hasattr(hub.model, "propose")
    if args.law == "proposal" and not proposes:
        raise UserError(
            f"{args.checkpoint} is a {type(hub.model).__name__} and has no proposal network:"
            " give --law uniform or oracle"
        )
    if args.law != "auto":
        return args.law, None
    if proposes:
        return "proposal", None
    notice = (
        "This checkpoint has no proposal network: uniform probabilities (--law oracle shows its own losses)."
    )
    return "uniform", notice


def _print(args: argparse.Namespace, shown: Sequence[ShownBlock]) -> None:
    colour = wants_colour(args.color)
    for line in render_blocks(shown, width=terminal_width(args), colour=colour, numbers=not args.no_numbers):
        print_text(line)
    print_text("")
    print_text(legend_line(colour=colour))


def _page(args: argparse.Namespace, shown: Sequence[ShownBlock], law: LawName, notice: str | None) -> str:
    facts = {
        "checkpoint": str(args.checkpoint),
        "probabilities": {
            "proposal": "the proposal network’s",
            "uniform": "uniform",
            "oracle": "proportional to the encoder’s loss of each position, measured with uniform masks",
        }[law],
        "drawn": f"{args.num_masks} tokens a block"
        if args.num_masks
        else f"{args.mask_prob:.0%} of the tokens",
        "seed": str(args.seed),
        "in all": _summary(shown, law),
    }
    return render_page(shown, title="Where the masks fall", facts=facts, notice=notice)


def _summary(shown: Sequence[ShownBlock], law: LawName) -> str:
    """Say in a line how peaked the law is, and how its ranks agree with the loss's where that is known."""
    tokens = [[token for token in block.tokens if token.relative is not None] for block in shown]
    flat = [token for block in tokens for token in block]
    drawn = sum(block.num_masked for block in shown)
    entropies = [block.entropy for block in shown if not math.isnan(block.entropy)]
    parts = [
        f"{law}: {drawn} of {len(flat)} maskable tokens drawn in {len(shown)} block{'s' * (len(shown) > 1)}"
    ]
    if entropies:
        parts.append(f"entropy {sum(entropies) / len(entropies):.1%} of the uniform law's")
    if flat and law != "uniform":
        best = max(flat, key=lambda token: token.relative or 0.0)
        parts.append(f"likeliest '{best.text}' at {best.relative:.1f} times uniform")
    if law == "proposal" and flat and flat[0].loss is not None:
        parts.append(f"rank correlation with the encoder's loss {_mean_rank_correlation(tokens):.2f}")
    return ", ".join(parts)


def _mean_rank_correlation(tokens: Sequence[Sequence[Any]]) -> float:
    found = []
    for block in tokens:
        values = torch.tensor([[token.probability, token.loss] for token in block], dtype=torch.float64)
        every = torch.ones(1, len(block), dtype=torch.bool)
        correlation, defined = rank_correlation(values[None, :, 0], values[None, :, 1], every)
        if bool(defined[0]):
            found.append(float(correlation[0]))
    return sum(found) / len(found) if found else math.nan


if __name__ == "__main__":
    sys.exit(main())
