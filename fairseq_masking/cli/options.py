"""What the verbs share: the same words for the same options, errors of one line, files of numbers."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "VerbParser", "add_devices", "add_measured", "add_models", "add_recipe", "add_shared", "at_least", "check_names",
    "measured_by", "named_models", "recipe_of", "write_numbers",
]  # fmt: skip


class VerbParser(argparse.ArgumentParser):
    """The parser of ``fairseq-masking VERB``; errors are one line, without the usage."""

    def __init__(self, verb: str, description: str) -> None:
        prog = f"fairseq-masking {verb}"
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_Formatter)

    def parse_args(self, *args: Any) -> argparse.Namespace:  # type: ignore[override]
        """Return the options; what the verb writes at its end has to have a place."""
        parsed = super().parse_args(*args)
        for option in ("out", "figure"):
            path = Path(getattr(parsed, option, None) or "x").absolute()
            if not (there := next(parent for parent in path.parents if parent.exists())).is_dir():
                self.error(f"--{option} {path}: {there} is no folder")
        return parsed

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
        if not bound <= value < 2**31:  # nan is none
            raise argparse.ArgumentTypeError(
                f"{value} is {f'above {2**31 - 1}' if value > bound else f'below {bound:g}'}"
            )
        return value

    return number


_SHARED: dict[str, dict[str, Any]] = {
    "checkpoint": {"type": Path, "required": True, "metavar": "FILE"},
    "data": {"type": Path, "metavar": "DIR", "help": "prepared corpus"},
    "figure": {"type": Path, "metavar": "PNG", "help": "figure to write"},
    "note": {"default": "", "metavar": "TEXT", "help": "kept in the file, such as how the checkpoint was trained"},
    "out": {"type": Path, "metavar": "CSV", "help": "file for the numbers, with what reproduces them"},
    "seed": {"type": at_least(0), "default": 1, "metavar": "N"},
}


def add_shared(parser: argparse._ActionsContainer, name: str, help: str = "", **more: Any) -> None:
    """Add an option that several verbs have."""
    parser.add_argument(f"--{name}", **{**_SHARED[name], **({"help": help} if help else {}), **more})


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--config-dir`` and KEY=VALUE: a pre-training as fairseq-hydra-train takes it."""
    add = parser.add_argument
    add("--config", required=True, metavar="NAME", help="recipe in --config-dir, without .yaml")
    add("--config-dir", type=Path, metavar="DIR", help="folder of recipes (default: this package's for pre-training)")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="as for fairseq-hydra-train")


def recipe_of(args: argparse.Namespace) -> Path:
    """Return the file of ``add_recipe``, whether or not it is there."""
    from fairseq_masking.files import configs_folder

    return (args.config_dir or configs_folder() / "pretrain").absolute() / f"{args.config}.yaml"


def add_models(parser: argparse.ArgumentParser, help: str) -> None:
    """Add models of ours or of Hugging Face, and where they run."""
    parser.add_argument("--checkpoint", nargs="+", required=True, metavar="[NAME=]PATH", help=help)
    parser.add_argument("--device", default="cpu", help="such as cuda")


def named_models(args: argparse.Namespace) -> dict[str, Path]:
    """Return name -> path of ``add_models``; ``args`` has the paths from then on."""
    from fairseq_masking.finetuning.tasks import named_path

    models = {name: Path(path) for name, path in map(named_path, args.checkpoint)}
    if len(models) < len(args.checkpoint):
        raise argparse.ArgumentError(None, "--checkpoint: give each a name of its own: NAME=PATH")
    args.checkpoint = list(models.values())
    return models


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs N`` and ``--devices N,N``: where runs go, one at a time on each of ``devices``."""
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--jobs", type=lambda text: ["cpu"] * at_least(1)(text), dest="devices", default=["cpu"],
                        metavar="N", help="runs at a time on CPU (default: 1)")  # fmt: skip
    places.add_argument("--devices", type=_gpus, metavar="N,N", help="GPUs, one run at a time on each")


def _gpus(text: str) -> list[str]:
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of GPU numbers such as 0,1")
    return [f"cuda:{int(number)}" for number in numbers]


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
    """Add what measurements of checkpoints on a prepared corpus share, with those defaults."""
    add = parser.add_argument
    add_shared(parser, "checkpoint", of, nargs="+" if several else None)
    add_shared(parser, "data", "prepared corpus that it was trained on", required=True)
    add("--split", default=split, help="of the corpus")
    add("--tokens-per-sample", type=at_least(4), metavar="T", help="tokens of a sequence (default: the training's)")
    add("--mask-prob", type=float, default=mask_prob if isinstance(mask_prob, float) else None, metavar="P",
        help=f"share of a sequence that a mask takes (default: {mask_prob})")  # fmt: skip
    if batch_size is not None:
        add("--batch-size", type=at_least(1), default=batch_size, metavar="N", help="sequences at once")
    add_shared(parser, "seed", seed)
    add_shared(parser, "out")
    add_shared(parser, "note")


def check_names(args: argparse.Namespace, default: Callable[[Path], str]) -> None:
    """Give each checkpoint the name that ``--names`` or its path says."""
    args.names = args.names or list(map(default, args.checkpoint))
    if not len(args.names) == len(set(args.names)) == len(args.checkpoint):
        wanted = f"{len(args.checkpoint)} different names are needed, not {' '.join(args.names)}"
        raise argparse.ArgumentError(None, f"--names: {wanted}")


def measured_by(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of ``add_measured`` that make batches, by their names."""
    return {name: getattr(args, name) for name in ("data", "tokens_per_sample", "mask_prob", "batch_size", "seed")}


def write_numbers(args: argparse.Namespace, rows: Sequence[dict[str, Any]], *, timed: bool = True) -> None:
    """Write ``--out``, where it was given: the rows, with what reproduces them and the seconds they took."""
    if args.out is None:
        return
    from fairseq_masking.figures.tables import provenance_of, write_csv

    paths = getattr(args, "checkpoint", [])
    checkpoints = [path for path in ([paths] if isinstance(paths, Path) else paths) if path.is_file()]
    more = {"note": args.note} if hasattr(args, "note") else {}
    write_csv(args.out, rows, provenance_of(args.command, checkpoints, since=args.started if timed else None, **more))
