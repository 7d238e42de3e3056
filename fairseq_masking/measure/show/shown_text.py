"""What commands that show text share: where it comes from, the terminal's width and colours, the page."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from fairseq_masking.cli.parsing import at_least
from fairseq_masking.errors import UserError
from fairseq_masking.files import whole_file

__all__ = [
    "add_page_options",
    "add_text_options",
    "check_least",
    "print_text",
    "read_texts",
    "terminal_width",
    "wants_colour",
    "write_page",
]


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Adds the checkpoint, the text and the length of what the model reads at once."""
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="corpus that it was trained on (default: as stored in it)")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", action="append", metavar="TEXT", help="text to show; repeat for several")
    text.add_argument("--file", metavar="FILE", help="UTF-8 text file, - for standard input")
    add("--lines", type=int, metavar="N", help="of the file, the first N only")
    add("--tokens-per-sample", type=int, metavar="T",
        help="longest block that the model reads at once (default: the training's)")  # fmt: skip
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument("--num-masks", type=int, metavar="K", help="positions to draw in each block of text")
    masks.add_argument("--mask-prob", type=float, default=0.15, metavar="P", help="or their share (0.15)")


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """Adds the page, the colours and the terminal's width."""
    add = parser.add_argument
    add("--html", type=Path, metavar="FILE", help="page to write; the terminal then shows a summary only")
    add("--color", choices=("auto", "always", "never"), default="auto",
        help="auto: where standard output is a terminal and NO_COLOR is not set")  # fmt: skip
    add("--width", type=int, metavar="N", help="columns (default: the terminal's)")


def check_least(parser: argparse.ArgumentParser, args: argparse.Namespace, **least: int) -> None:
    """Refuses options below what is given here, beside those that are shared, and --lines without --file."""
    at_least(parser, args, num_masks=1, lines=1, width=1, tokens_per_sample=3, **least)
    if args.lines is not None and args.file is None:
        parser.error("--lines belongs to --file")


def read_texts(args: argparse.Namespace) -> list[list[str]]:
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


def wants_colour(choice: str) -> bool:
    """Whether to write colours to standard output: https://no-color.org."""
    if choice != "auto":
        return choice == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_width(args: argparse.Namespace) -> int:
    """Columns to write in."""
    return args.width or shutil.get_terminal_size().columns


def print_text(line: str) -> None:
    """Prints a line; what standard output cannot encode becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding))


def write_page(path: Path, page: str) -> None:
    """Writes the page, whole or not at all, and says where."""
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
    print_text(f"page: {path}")
