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
    "VerbParser", "add_checkpoint", "add_data",
    "add_devices", "add_figure", "add_measured", "add_out", "add_seed", "add_shown",
    "at_least", "measured_by", "named_checkpoints", "read_shown", "run_reporting",
    "until_the_reader_leaves", "write_numbers",
]  # fmt: skip


class VerbParser(argparse.ArgumentParser):
    """The parser of ``fairseq-masking VERB``; errors are one line, without the usage."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            prog=f"fairseq-masking {verb}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")


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


def named_checkpoints(args: argparse.Namespace) -> dict[str, str]:
    """Return name -> path of what ``--checkpoint [NAME=]PATH ...`` gives.

    Raises:
        ArgumentError: two have one name.
    """
    from fairseq_masking.finetuning.tasks import named_path

    models = dict(map(named_path, args.checkpoint))
    if len(models) < len(args.checkpoint):
        raise argparse.ArgumentError(None, "--checkpoint: give each a name of its own: NAME=PATH")
    return models


def add_data(parser: argparse.ArgumentParser, help: str = "prepared corpus", *, required: bool = False) -> None:
    parser.add_argument("--data", type=Path, required=required, metavar="DIR", help=help)


def add_out(parser: argparse.ArgumentParser, help: str, *, metavar: str, required: bool = False) -> None:
    parser.add_argument("--out", type=Path, required=required, metavar=metavar, help=help)


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs N`` and ``--devices N,N``: where runs go, one at a time on each of ``devices``."""
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--jobs", type=_jobs, dest="devices", default=["cpu"], metavar="N",
                        help="runs at a time on CPU (default: 1)")  # fmt: skip
    places.add_argument("--devices", type=_gpus, metavar="N,N", help="GPUs, one run at a time on each")


def _jobs(text: str) -> list[str]:
    return ["cpu"] * at_least(1)(text)


def _gpus(text: str) -> list[str]:
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of GPU numbers such as 0,1")
    return [f"cuda:{int(number)}" for number in numbers]


def add_figure(parser: argparse.ArgumentParser, help: str = "figure to write", *, required: bool = False) -> None:
    parser.add_argument("--figure", type=Path, required=required, metavar="PNG", help=help)


def add_seed(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--seed", type=at_least(0), default=1, metavar="N", help=f"{help} (default: 1)")


def add_shown(parser: argparse.ArgumentParser, *, of: str, seed: str) -> None:
    """Add a checkpoint, a text, what is read of it at once, which tokens are masked, and how it is shown."""
    add = parser.add_argument
    add_checkpoint(parser, of)
    add_data(parser, "corpus that it was trained on (default: as stored in it)")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", action="append", metavar="TEXT", help="text to show; repeat for several")
    text.add_argument("--file", metavar="FILE", help="UTF-8 text file, - for standard input")
    add("--lines", type=at_least(1), metavar="N", help="of the file, the first N only")
    add("--tokens-per-sample", type=at_least(3), metavar="T",
        help="longest block that the model reads at once (default: the training's)")  # fmt: skip
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument("--num-masks", type=at_least(1), metavar="K", help="positions to draw in each block of text")
    masks.add_argument("--mask-prob", type=float, default=0.15, metavar="P", help="or their share (0.15)")
    add_out(parser, "HTML page to write; the terminal then shows a summary only", metavar="PAGE.html")
    add("--color", choices=("auto", "always", "never"), default="auto",
        help="auto: where standard output is a terminal and NO_COLOR is not set")  # fmt: skip
    add("--width", type=at_least(1), metavar="N", help="columns (default: the terminal's)")
    add_seed(parser, seed)


def read_shown(args: argparse.Namespace, load: Callable[[Path, Path | None], Any]) -> tuple[Any, dict[str, Any]]:
    """Return the checkpoint of ``add_shown``, by ``load``, and what is masked of which blocks of the text."""
    from fairseq_masking.corpus.dictionary import masking_vocabulary
    from fairseq_masking.masking import MaskingConfig
    from fairseq_masking.measure.sequences import cut_texts, sequence_length

    MaskingConfig(mask_prob=args.mask_prob)  # says what is wrong with it
    texts = _read_texts(args)
    hub = load(args.checkpoint, args.data)
    return hub, {
        "blocks": cut_texts(hub, texts, sequence_length(hub, args.tokens_per_sample)),
        "special_V": masking_vocabulary(hub.dictionary, folder=Path()).special,
        "mask_prob": args.mask_prob,
        "num_masks": args.num_masks,
        "seed": args.seed,
    }


def _read_texts(args: argparse.Namespace) -> list[list[str]]:
    """Return texts of lines; blocks do not cross from one text to the next."""
    if args.lines is not None and args.file is None:
        raise argparse.ArgumentError(None, "--lines belongs to --file")
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
        raise UserError(f"--file {args.file} is not UTF-8 (byte {error.start}): convert it with iconv") from error


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
    add("--split", default=split, help=f"of the corpus (default: {split})")
    add("--tokens-per-sample", type=at_least(4), metavar="T",
        help="tokens of a sequence (default: the training's)")  # fmt: skip
    add("--mask-prob", type=float, default=mask_prob if isinstance(mask_prob, float) else None, metavar="P",
        help=f"share of a sequence that a mask takes (default: {mask_prob})")  # fmt: skip
    if batch_size is not None:
        add("--batch-size", type=at_least(1), default=batch_size, metavar="N",
            help=f"sequences at once (default: {batch_size})")  # fmt: skip
    add_seed(parser, seed)
    add_out(parser, "file for the numbers, with what reproduces them", metavar="CSV")
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
    checkpoints = [paths] if isinstance(paths, Path) else paths
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
    try:
        with _warnings_only():
            work()
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except UserError as error:
        return _fail(parser, str(error), 1)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder that may not be written
        return _fail(parser, f"{error.filename or place or parser.prog}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _fail(parser, "interrupted", 130)
    return 0


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


def _fail(parser: argparse.ArgumentParser, message: str, status: int) -> int:
    as_module = Path(sys.argv[0]).parent.name == "fairseq_masking"  # python -m fairseq_masking, as a training's line
    print(f"{'fairseq_masking' if as_module else parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Let only warnings through: fairseq logs everything, which would drown a table."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # whatever level fairseq, imported by then, gives the root logger
    try:
        yield
    finally:
        logging.disable(before)
