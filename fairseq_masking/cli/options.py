"""What the verbs share: the same words for the same options, one-line errors, a quiet fairseq."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from fairseq_masking.errors import UserError

__all__ = [
    "VerbParser", "add_checkpoint", "add_data", "add_devices", "add_figure", "add_measured", "add_models", "add_out",
    "add_seed", "at_least", "measured_by", "named_models", "run_reporting", "until_the_reader_leaves", "write_numbers",
]  # fmt: skip


class VerbParser(argparse.ArgumentParser):
    """The parser of ``fairseq-masking VERB``; errors are one line, without the usage."""

    def __init__(self, verb: str, description: str) -> None:
        prog = f"fairseq-masking {verb}"
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Says the default of an option that does not say it itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        says = default is None or default is False or default in ("", [], argparse.SUPPRESS) or "default" in text
        return text if says else f"{text} (default: %(default)s)"


def at_least(bound: float) -> Callable[[str], float]:
    """Return an option's ``type``: numbers from ``bound`` on, whole ones if ``bound`` is an int."""
    kind = type(bound)

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        if not value >= bound:  # nan is none
            raise argparse.ArgumentTypeError(f"{value} is below {bound:g}")
        return value

    return number


def add_checkpoint(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help=help)


def add_models(parser: argparse.ArgumentParser, help: str) -> None:
    """Add models of ours or of Hugging Face, and where they run."""
    parser.add_argument("--checkpoint", nargs="+", required=True, metavar="[NAME=]PATH", help=help)
    parser.add_argument("--device", default="cpu", help="such as cuda")


def named_models(args: argparse.Namespace) -> dict[str, Path]:
    """Return name -> path of ``add_models``; ``args`` has the paths from then on.

    Raises:
        ArgumentError: two have one name.
    """
    from fairseq_masking.finetuning.tasks import named_path

    models = {name: Path(path) for name, path in map(named_path, args.checkpoint)}
    if len(models) < len(args.checkpoint):
        raise argparse.ArgumentError(None, "--checkpoint: give each a name of its own: NAME=PATH")
    args.checkpoint = list(models.values())
    return models


def add_data(parser: argparse.ArgumentParser, help: str = "prepared corpus", *, required: bool = False) -> None:
    parser.add_argument("--data", type=Path, required=required, metavar="DIR", help=help)


def add_out(
    parser: argparse.ArgumentParser,
    help: str = "file for the numbers, with what reproduces them",
    *,
    metavar: str = "CSV",
    required: bool = False,
) -> None:
    parser.add_argument("--out", type=Path, required=required, metavar=metavar, help=help)


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs N`` and ``--devices N,N``: where runs go, one at a time on each of ``devices``."""
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--jobs", type=lambda text: ["cpu"] * at_least(1)(text), dest="devices", default=["cpu"],
                        metavar="N", help="runs at a time on CPU (default: 1)")  # fmt: skip
    places.add_argument("--devices", type=_gpus, metavar="N,N", help="GPUs, one run at a time on each (default: none)")


def _gpus(text: str) -> list[str]:
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of GPU numbers such as 0,1")
    return [f"cuda:{int(number)}" for number in numbers]


def add_figure(parser: argparse.ArgumentParser, help: str = "figure to write", *, required: bool = False) -> None:
    parser.add_argument("--figure", type=Path, required=required, metavar="PNG", help=help)


def add_seed(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--seed", type=at_least(0), default=1, metavar="N", help=help)


def add_measured(
    parser: argparse.ArgumentParser,
    *,
    of: str,
    split: str,
    mask_prob: float | str,
    seed: str,
    batch_size: int | None = None,
    several: bool = False,
) -> None:
    """Add what measurements of checkpoints on a prepared corpus share.

    Args:
        of: what checkpoints.
        split: default of ``--split``, as are ``mask_prob`` (or what is said of it) and ``batch_size``.
        several: whether they take more than one.
    """
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help=of, nargs="+" if several else None)
    add_data(parser, "prepared corpus that it was trained on", required=True)
    add("--split", default=split, help="of the corpus")
    add("--tokens-per-sample", type=at_least(4), metavar="T", help="tokens of a sequence (default: the training's)")
    add("--mask-prob", type=float, default=mask_prob if isinstance(mask_prob, float) else None, metavar="P",
        help=f"share of a sequence that a mask takes (default: {mask_prob})")  # fmt: skip
    if batch_size is not None:
        add("--batch-size", type=at_least(1), default=batch_size, metavar="N", help="sequences at once")
    add_seed(parser, seed)
    add_out(parser)
    add("--note", default="", metavar="TEXT", help="kept in the file, such as how the checkpoint was trained")


def measured_by(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of ``add_measured`` that make batches, by their names."""
    return {name: getattr(args, name) for name in ("data", "tokens_per_sample", "mask_prob", "batch_size", "seed")}


def write_numbers(args: argparse.Namespace, rows: Sequence[dict[str, Any]], *, since: float | None = None) -> None:
    """Write ``--out``, where it was given: the rows, with what reproduces them.

    Args:
        since: ``time.perf_counter()`` when the measurement started.
    """
    if args.out is None:
        return
    from fairseq_masking.figures.tables import provenance_of, write_csv

    paths = getattr(args, "checkpoint", [])
    checkpoints = [path for path in ([paths] if isinstance(paths, Path) else paths) if path.is_file()]
    more = {"note": args.note} if hasattr(args, "note") else {}
    write_csv(args.out, rows, provenance_of(args.command, checkpoints, since=since, **more))


def run_reporting(parser: argparse.ArgumentParser, work: Callable[[], None], place: Path | None = None) -> int:
    """Run ``work``; return the exit status: 0, 1 for bad input, 130 interrupted. Errors are one line.

    An ``argparse.ArgumentError`` in it says which options do not go together: status 2, as of the parser.

    Args:
        place: what it writes, named where an error of the system names no file.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what it cannot encode becomes a question mark
    disabled, status = logging.root.manager.disable, 1
    logging.disable(logging.INFO)  # only warnings, whatever level fairseq, imported by then, gives the root logger
    try:
        work()
        return 0
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except UserError as error:
        message = str(error)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder that may not be written
        message = f"{error.filename or place or parser.prog}: {error.strerror or error}"
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    finally:
        logging.disable(disabled)
    print(f"{parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


@contextmanager
def until_the_reader_leaves() -> Iterator[None]:
    """End quietly where ``| head`` has read enough; what is printed is flushed in the block."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
