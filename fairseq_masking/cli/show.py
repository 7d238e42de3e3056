"""Text as a checkpoint masks it or fills it in, in a terminal or as an HTML page."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq_masking.cli.options import add_shared, at_least
from fairseq_masking.errors import UserError

_LAWS = {
    "proposal": "the proposal network’s",
    "uniform": "uniform",
    "oracle": "proportional to the encoder’s loss of each position, measured with uniform masks",
}
_UNIFORM = "This checkpoint has no proposal network: uniform probabilities (--law oracle shows its own losses)."


class Masks:
    """Where a checkpoint masks text (MAP-Net's case study, 2008.05333, Fig. 2), in a terminal or as an HTML page.

    Each token's background tells how likely it is to be masked, brackets or frames which positions one draw
    takes. A checkpoint without proposal network masks uniformly; --law oracle shows the encoder's own loss of
    each position instead.

    Example:
      fairseq-masking show masks --checkpoint checkpoint_best.pt --text 'The old dog sat.' --out page.html
    """

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        _add_shown(parser, of="of any method", seed="of the drawn masks")
        add("--law", choices=("auto", *_LAWS), default="auto",
            help="proposal: the checkpoint's network. oracle: proportional to the encoder's loss."
            " auto: the proposal where there is one, else uniform (default)")  # fmt: skip
        add("--losses", action="store_true", help="measure the encoder's loss of each position as well")
        add("--no-numbers", action="store_true", help="leave the numbers under the tokens out")

    @staticmethod
    def run(args: argparse.Namespace) -> None:
        from fairseq_masking.measure.show import render
        from fairseq_masking.measure.show.shown import masks_summary, show_masks
        from fairseq_masking.models import MLMModel

        hub, given = _read(args, lambda path, data: MLMModel.from_pretrained(path, data=data))
        proposes, law, notice = hasattr(hub.model, "propose"), args.law, None
        if law == "proposal" and not proposes:
            raise UserError(
                f"{args.checkpoint} is a {type(hub.model).__name__} and has no proposal network:"
                " give --law uniform or oracle"
            )
        if law == "auto":
            law, notice = ("proposal", None) if proposes else ("uniform", _UNIFORM)
        splits = int(hub.cfg.task.get("mask_splits", 1))  # as its training masked
        shown = list(show_masks(hub, **given, law=law, with_losses=args.losses, splits=splits))
        summary = masks_summary(shown, law)
        drawn = f"{args.num_masks} tokens a block" if args.num_masks else f"{args.mask_prob:.0%} of the tokens"
        drawn += f", by each of {splits} masks that never overlap" if splits > 1 else ""
        facts = {"checkpoint": args.checkpoint, "probabilities": _LAWS[law], "drawn": drawn, "seed": args.seed}
        render.present(
            args, "masks", "[drawn]   numbers: % of the uniform probability",
            lambda width: render.mask_lines(shown, width=width, numbers=not args.no_numbers),
            [summary, notice] if notice else [summary],
            title="Where the masks fall", facts={**facts, "in all": summary}, notice=notice, blocks=shown,
        )  # fmt: skip


class Replacements:
    """What an AMOS checkpoint puts in place of masked tokens (2204.03243, Table 9), in a terminal or as a page.

    Of each masked token: what each depth of the generator and their mixture would write there, with
    probabilities, what they do write, and whether the discriminator takes it for replaced. Tokens are masked at
    random, or where the text has <mask>.

    Example:
      fairseq-masking show replacements --checkpoint checkpoint_best.pt --text 'The <mask> dog sat on a hat.'
    """

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        _add_shown(parser, of="of amos", seed="of masked positions and drawn tokens")
        add("--top", type=at_least(1), default=3, metavar="N", help="likeliest tokens to list")
        add("--put", choices=("drawn", "likeliest"), default="drawn",
            help="what stands in place: a token drawn, as in training (default), or the likeliest")  # fmt: skip

    @staticmethod
    def run(args: argparse.Namespace) -> None:
        from fairseq_masking.measure.amos import load_amos, source_names
        from fairseq_masking.measure.show import render
        from fairseq_masking.measure.show.shown import replacements_summary, show_replacements

        hub, given = _read(args, load_amos)
        sources = source_names(hub.model)
        shown = list(show_replacements(hub, **given, top=args.top, likeliest=args.put == "likeliest"))
        summary = replacements_summary(shown, sources)
        put = "a token drawn from each, with the same noise" if args.put == "drawn" else args.put
        facts = {"checkpoint": args.checkpoint, "put in place": put, "seed": args.seed, "in all": summary}
        render.present(
            args, "replacements", f"[masked]({'/'.join(sources)})",
            lambda width: render.replacement_lines(shown, sources, width=width), [summary],
            title="What stands in place of masked tokens", facts=facts, notice=None, blocks=shown, sources=sources,
        )  # fmt: skip


def _add_shown(parser: argparse.ArgumentParser, *, of: str, seed: str) -> None:
    add = parser.add_argument
    add_shared(parser, "checkpoint", of)
    add_shared(parser, "data", "corpus that it was trained on (default: as stored in it)")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", action="append", metavar="TEXT", help="text to show; repeat for several")
    text.add_argument("--file", metavar="FILE", help="UTF-8 text file, - for standard input")
    add("--lines", type=at_least(1), metavar="N", help="of the file, the first N only")
    add("--tokens-per-sample", type=at_least(3), metavar="T",
        help="longest block that the model reads at once (default: the training's)")  # fmt: skip
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument("--num-masks", type=at_least(1), metavar="K", help="positions to draw in each block of text")
    masks.add_argument("--mask-prob", type=float, default=0.15, metavar="P", help="or their share")
    add_shared(parser, "out", "HTML page to write; the terminal then shows a summary only", metavar="PAGE.html")
    add("--color", choices=("auto", "always", "never"), default="auto",
        help="auto: where standard output is a terminal and NO_COLOR is not set")  # fmt: skip
    add("--width", type=at_least(1), metavar="N", help="columns (default: the terminal's)")
    add_shared(parser, "seed", seed)


def _read(args: argparse.Namespace, load: Callable[[Path, Path | None], Any]) -> tuple[Any, dict[str, Any]]:
    """Return the checkpoint, by ``load``, and what is masked of which blocks of the text."""
    from fairseq_masking.corpus.dictionary import masking_vocabulary
    from fairseq_masking.masking import MaskingConfig
    from fairseq_masking.measure.sequences import cut_texts, sequence_length

    MaskingConfig(mask_prob=args.mask_prob)  # says what is wrong with it
    if args.lines is not None and args.file is None:
        raise argparse.ArgumentError(None, "--lines belongs to --file")
    texts = [text.splitlines() for text in args.text] if args.text else [_lines(args.file)[: args.lines]]
    hub = load(args.checkpoint, args.data)
    return hub, {
        "blocks": cut_texts(hub, texts, sequence_length(hub, args.tokens_per_sample)),
        "special_V": masking_vocabulary(hub.dictionary, folder=Path()).special,
        "mask_prob": args.mask_prob,
        "num_masks": args.num_masks,
        "seed": args.seed,
    }


def _lines(file: str) -> list[str]:
    if file != "-" and not Path(file).is_file():
        raise UserError(f"--file {file}: no such file; give a text file, or --text '...'")
    content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"--file {file} is not UTF-8 (byte {error.start}): convert it with iconv") from error
