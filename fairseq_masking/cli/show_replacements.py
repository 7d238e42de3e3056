"""What an AMOS checkpoint puts in place of masked tokens (2204.03243, Table 9), in a terminal or as a page.

Of each masked token: what each depth of the generator and their mixture would write there, with
probabilities, what they do write, and whether the discriminator takes it for replaced. Tokens are masked at
random, or where the text has <mask>.

Example:
  fairseq-masking show replacements --checkpoint checkpoint_best.pt --text 'The <mask> dog sat on a hat.'
"""

import argparse
from pathlib import Path

from fairseq_masking.cli.options import add_checkpoint, add_data, add_seed, add_text, at_least, read_texts

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add = parser.add_argument
    add_checkpoint(parser, "of amos")
    add_data(parser, "corpus that it was trained on (default: as stored in it)")
    add_text(parser)
    add("--top", type=at_least(1), default=3, metavar="N", help="likeliest tokens to list (3)")
    add("--put", choices=("drawn", "likeliest"), default="drawn",
        help="what stands in place: a token drawn, as in training (default), or the likeliest")  # fmt: skip
    add_seed(parser, "of masked positions and drawn tokens")


def run(args: argparse.Namespace) -> None:
    """Show the text and the numbers, or write the page; say a summary."""
    from fairseq_masking import register

    register()
    from fairseq_masking.corpus.dictionary import masking_vocabulary
    from fairseq_masking.masking import MaskingConfig
    from fairseq_masking.measure.amos import load_amos, source_names
    from fairseq_masking.measure.sequences import sequence_length
    from fairseq_masking.measure.show import render
    from fairseq_masking.measure.show.shown_replacements import show_replacements, summary_line
    from fairseq_masking.measure.show.text_blocks import cut_texts

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
    summary = summary_line(shown, sources)
    put = "a token drawn from each, with the same noise" if args.put == "drawn" else args.put
    facts = {"checkpoint": args.checkpoint, "put in place": put, "seed": args.seed, "in all": summary}
    render.present(
        args, "replacements", f"[masked]({'/'.join(sources)})",
        lambda width: render.replacement_lines(shown, sources, width=width), [summary],
        title="What stands in place of masked tokens", facts=facts, notice=None, blocks=shown,
        sources=sources,
    )  # fmt: skip
