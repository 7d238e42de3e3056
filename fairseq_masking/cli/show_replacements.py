"""What an AMOS checkpoint puts in place of masked tokens (2204.03243, Table 9), in a terminal or as a page.

Of each masked token: what each depth of the generator and their mixture would write there, with
probabilities, what they do write, and whether the discriminator takes it for replaced. Tokens are masked at
random, or where the text has <mask>.

Example:
  fairseq-masking show replacements --checkpoint checkpoint_best.pt --text 'The <mask> dog sat on a hat.'
"""

import argparse

from fairseq_masking.cli.options import add_shown, at_least, read_shown


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_shown(parser, of="of amos", seed="of masked positions and drawn tokens")
    add("--top", type=at_least(1), default=3, metavar="N", help="likeliest tokens to list (3)")
    add("--put", choices=("drawn", "likeliest"), default="drawn",
        help="what stands in place: a token drawn, as in training (default), or the likeliest")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Show the text and the numbers, or write the page; say a summary."""
    from fairseq_masking.measure.amos import load_amos, source_names
    from fairseq_masking.measure.show import render
    from fairseq_masking.measure.show.shown_replacements import show_replacements, summary_line

    hub, given = read_shown(args, load_amos)
    sources = source_names(hub.model)
    shown = list(show_replacements(hub, **given, top=args.top, likeliest=args.put == "likeliest"))
    summary = summary_line(shown, sources)
    put = "a token drawn from each, with the same noise" if args.put == "drawn" else args.put
    facts = {"checkpoint": args.checkpoint, "put in place": put, "seed": args.seed, "in all": summary}
    render.present(
        args, "replacements", f"[masked]({'/'.join(sources)})",
        lambda width: render.replacement_lines(shown, sources, width=width), [summary],
        title="What stands in place of masked tokens", facts=facts, notice=None, blocks=shown,
        sources=sources,
    )  # fmt: skip
