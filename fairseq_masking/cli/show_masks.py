"""Where a checkpoint masks text (MAP-Net's case study, 2008.05333, Fig. 2), in a terminal or as an HTML page.

Each token's background tells how likely it is to be masked, brackets or frames which positions one draw
takes. A checkpoint without proposal network masks uniformly; --law oracle shows the encoder's own loss of
each position instead.

Example:
  fairseq-masking show masks --checkpoint checkpoint_best.pt --text 'The old dog sat.' --out page.html
"""

import argparse
from typing import TYPE_CHECKING, Any

from fairseq_masking.cli.options import add_shown, read_shown
from fairseq_masking.errors import UserError

if TYPE_CHECKING:
    from fairseq_masking.measure.show.shown_masks import LawName

_LAWS = {
    "proposal": "the proposal network’s",
    "uniform": "uniform",
    "oracle": "proportional to the encoder’s loss of each position, measured with uniform masks",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_shown(parser, of="of any method", seed="of the drawn masks")
    add("--law", choices=("auto", *_LAWS), default="auto",
        help="proposal: the checkpoint's network. oracle: proportional to the encoder's loss."
        " auto: the proposal where there is one, else uniform (default)")  # fmt: skip
    add("--losses", action="store_true", help="measure the encoder's loss of each position as well")
    add("--no-numbers", action="store_true", help="leave the numbers under the tokens out")


def run(args: argparse.Namespace) -> None:
    """Show the text, or write the page; say a summary."""
    from fairseq_masking.measure.show import render
    from fairseq_masking.measure.show.shown_masks import show_masks, summary_line
    from fairseq_masking.models import MLMModel

    hub, given = read_shown(args, lambda path, data: MLMModel.from_pretrained(path, data=data))
    law, notice = _law(args, hub)
    splits = int(hub.cfg.task.get("mask_splits", 1))  # as its training masked
    shown = list(show_masks(hub, **given, law=law, with_losses=args.losses, splits=splits))
    summary = summary_line(shown, law)
    drawn = f"{args.num_masks} tokens a block" if args.num_masks else f"{args.mask_prob:.0%} of the tokens"
    drawn += f", by each of {splits} masks that never overlap" if splits > 1 else ""
    facts = {"checkpoint": args.checkpoint, "probabilities": _LAWS[law], "drawn": drawn, "seed": args.seed}
    render.present(
        args, "masks", "[drawn]   numbers: % of the uniform probability",
        lambda width: render.mask_lines(shown, width=width, numbers=not args.no_numbers),
        [summary, notice] if notice else [summary],
        title="Where the masks fall", facts={**facts, "in all": summary}, notice=notice, blocks=shown,
    )  # fmt: skip


def _law(args: argparse.Namespace, hub: Any) -> tuple["LawName", str | None]:
    """The law, and what has to be said of it."""
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
    notice = "This checkpoint has no proposal network: uniform probabilities (--law oracle shows its own losses)."
    return "uniform", notice
