"""export_hf: writes a checkpoint of any method as a folder that Hugging Face transformers loads.

RoBERTa, RoBERTa-PreLayerNorm and MPNet (T5's relative positions) need no code of ours; for other encoders,
and for AMOS's discriminator, a modelling file lies beside the weights, which trust_remote_code=True takes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.checkpoints.hugging_face import export_checkpoint
from fairseq_masking.cli.parsing import OneLineParser, run_reporting

__all__ = ["get_parser", "main"]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="export_hf",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="of any method, or a fine-tuned one")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    add("--data", type=Path, metavar="DIR", help="data that it was trained on (default: as stored in it)")
    add("--head", metavar="NAME", help="classification head to take along, where it has several")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    return run_reporting(parser, lambda: _export(args), args.out)


def _export(args: argparse.Namespace) -> None:
    written = export_checkpoint(args.checkpoint, args.out, data=args.data, head=args.head)
    code = ", trust_remote_code=True" if written.remote_code else ""
    print(f"{args.out}: {written.architecture}; AutoModel.from_pretrained({str(args.out)!r}{code}) loads it")


if __name__ == "__main__":
    sys.exit(main())
