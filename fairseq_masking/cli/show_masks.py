"""show_masks: shows where a checkpoint masks text (MAP-Net's case study, 2008.05333, Fig. 2).

Each token's background tells how likely it is to be masked, brackets or frames which positions one draw
takes; in a terminal, and as an HTML page. A checkpoint without proposal network masks uniformly; --law oracle
shows the encoder's own loss of each position instead.
"""

import argparse
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fairseq_masking.cli.measurements import sequence_length
from fairseq_masking.cli.parsing import OneLineParser, run_reporting
from fairseq_masking.errors import UserError
from fairseq_masking.evaluation.mask_page import render_page
from fairseq_masking.evaluation.mask_terminal import legend_line, render_blocks
from fairseq_masking.evaluation.shown_masks import LawName, ShownBlock, cut_blocks, show_masks
from fairseq_masking.masking import MaskingConfig
from fairseq_masking.models import MLMModel
from fairseq_masking.ops.rank_correlation import rank_correlation
from fairseq_masking.tasks.vocabulary import masking_vocabulary

__all__ = ["get_parser", "main", "wants_colour"]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="show_masks", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="of any method")
    add("--data", type=Path, metavar="DIR", help="corpus that it was trained on (default: as stored in it)")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", action="append", metavar="TEXT", help="text to show; repeat for several")
    text.add_argument("--file", metavar="FILE", help="UTF-8 text file, - for standard input")
    add("--lines", type=int, metavar="N", help="of the file, the first N only")
    add("--law", choices=("auto", "proposal", "uniform", "oracle"), default="auto",
        help="proposal: the checkpoint's network. oracle: proportional to the encoder's loss."
        " auto: the proposal where there is one, else uniform (default)")  # fmt: skip
    add("--losses", action="store_true", help="measure the encoder's loss of each position as well")
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument("--num-masks", type=int, metavar="K", help="positions to draw in each block of text")
    masks.add_argument("--mask-prob", type=float, default=0.15, metavar="P", help="or their share (0.15)")
    add("--seed", type=int, default=1, help="of the drawn masks")
    add("--tokens-per-sample", type=int, metavar="T",
        help="longest block that the model reads at once (default: the training's)")  # fmt: skip
    add("--html", type=Path, metavar="FILE", help="page to write; the terminal then shows a summary only")
    add("--color", choices=("auto", "always", "never"), default="auto",
        help="auto: where standard output is a terminal and NO_COLOR is not set")  # fmt: skip
    add("--no-numbers", action="store_true", help="leave the numbers under the tokens out")
    add("--width", type=int, metavar="N", help="columns (default: the terminal's)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    _check_options(parser, args)
    return run_reporting(parser, lambda: _show(args), args.html)


def wants_colour(choice: str) -> bool:
    """Whether to write colours to standard output: https://no-color.org."""
    if choice != "auto":
        return choice == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for name, least in (("num_masks", 1), ("lines", 1), ("width", 1), ("seed", 0), ("tokens_per_sample", 3)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} {value} is below {least}")
    if args.lines is not None and args.file is None:
        parser.error("--lines belongs to --file")


def _show(args: argparse.Namespace) -> None:
    MaskingConfig(mask_prob=args.mask_prob)  # says what is wrong with it
    lines = _read(args)
    hub = MLMModel.from_pretrained(args.checkpoint, data=args.data)
    law, notice = _law(args, hub)
    length = sequence_length(hub, args.tokens_per_sample)
    texts = [cut_blocks(hub, text, length) for text in lines]
    blocks = [block for text in texts for block in text]
    if not blocks:
        raise UserError(f"{'--text' if args.text else args.file} holds no words to mask: give some text")
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
    if args.html is not None:
        _write_page(args, shown, law, notice)
    else:
        _print(args, shown)
    _print_text(_summary(shown, law))
    if notice:
        _print_text(notice)
    if args.html is not None:
        _print_text(f"page: {args.html}")


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


def _read(args: argparse.Namespace) -> list[list[str]]:
    """Texts of lines; blocks do not cross from one text to the next."""
    if args.text:
        return [text.splitlines() for text in args.text]
    if args.file == "-":
        content = sys.stdin.buffer.read()
    else:
        path = Path(args.file)
        if not path.is_file():
            raise UserError(f"--file {path}: no such file; give a text file, or --text '...'")
        content = path.read_bytes()
    try:
        return [content.decode("utf-8").splitlines()[: args.lines]]
    except UnicodeDecodeError as error:
        raise UserError(
            f"--file {args.file} is not UTF-8 (byte {error.start}): convert it with iconv"
        ) from error


def _print(args: argparse.Namespace, shown: Sequence[ShownBlock]) -> None:
    colour, width = wants_colour(args.color), args.width or shutil.get_terminal_size().columns
    for line in render_blocks(shown, width=width, colour=colour, numbers=not args.no_numbers):
        _print_text(line)
    _print_text("")
    _print_text(legend_line(colour=colour))


def _write_page(
    args: argparse.Namespace, shown: Sequence[ShownBlock], law: LawName, notice: str | None
) -> None:
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
    page = render_page(shown, title="Where the masks fall", facts=facts, notice=notice)
    args.html.parent.mkdir(parents=True, exist_ok=True)
    partial = args.html.with_name(f".{args.html.name}")
    partial.write_text(page, encoding="utf-8")
    partial.replace(args.html)


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


def _print_text(line: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
