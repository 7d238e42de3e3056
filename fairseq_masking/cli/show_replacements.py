"""show_replacements: what an AMOS checkpoint puts in place of masked tokens (2204.03243, Table 9).

Of each masked token: what each depth of the generator and their mixture would write there, with
probabilities, what they do write, and whether the discriminator takes it for replaced. Tokens are masked at
random, or where the text has <mask>. In a terminal, and as an HTML page.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.cli.parsing import OneLineParser, run_reporting
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.masking import MaskingConfig
from fairseq_masking.measure.measurements import load_amos, sequence_length
from fairseq_masking.measure.replacements import source_names
from fairseq_masking.measure.show.replacement_page import render_page
from fairseq_masking.measure.show.replacement_table import summary_line
from fairseq_masking.measure.show.replacement_terminal import legend_line, render_blocks
from fairseq_masking.measure.show.shown_replacements import ReplacedBlock, show_replacements
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

__all__ = ["get_parser", "main"]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="show_replacements", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="of amos")
    add_text_options(parser)
    add("--top", type=int, default=3, metavar="N", help="likeliest tokens to list (3)")
    add("--put", choices=("drawn", "likeliest"), default="drawn",
        help="what stands in place: a token drawn, as in training (default), or the likeliest")  # fmt: skip
    add("--seed", type=int, default=1, help="of masked positions and drawn tokens")
    add_page_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    check_least(parser, args, seed=0, top=1)
    return run_reporting(parser, lambda: _show(args), args.html)


def _show(args: argparse.Namespace) -> None:
    MaskingConfig(mask_prob=args.mask_prob)  # says what is wrong with it
    texts = read_texts(args)
    hub = load_amos(args.checkpoint, args.data)
    sources = source_names(hub.model)
    shown = list(
        show_replacements(
            hub,
            cut_texts(hub, texts, sequence_length(hub, args.tokens_per_sample)),
            masking_vocabulary(hub.dictionary, folder=Path()).special,
            mask_prob=args.mask_prob,
            num_masks=args.num_masks,
            top=args.top,
            likeliest=args.put == "likeliest",
            seed=args.seed,
        )
    )
    if args.html is None:
        colour = wants_colour(args.color)
        for line in render_blocks(shown, sources, width=terminal_width(args), colour=colour):
            print_text(line)
        print_text("")
        print_text(legend_line(sources, colour=colour))
    print_text(summary_line(shown, sources))
    if args.html is not None:
        write_page(args.html, _page(args, shown, sources))


def _page(args: argparse.Namespace, shown: Sequence[ReplacedBlock], sources: Sequence[str]) -> str:
    facts = {
        "checkpoint": str(args.checkpoint),
        "put in place": "a token drawn from each, with the same noise" if args.put == "drawn" else args.put,
        "seed": str(args.seed),
        "in all": summary_line(shown, sources),
    }
    return render_page(shown, sources, title="What stands in place of masked tokens", facts=facts)


if __name__ == "__main__":
    sys.exit(main())
