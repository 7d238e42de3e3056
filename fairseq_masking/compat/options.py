"""Options: one of a fairseq dataclass, what fairseq's parser makes of ``--bf16`` and ``--help``, which were typed."""

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import field
from typing import Any

from fairseq import options as fairseq_options
from fairseq.dataclass import utils as dataclass_utils
from hydra.core.hydra_config import HydraConfig

from fairseq_masking.compat.patching import replaces

__all__ = ["option", "was_typed"]

_HELP = {"-h", "--help"}
_given: list[str] = []  # the words that fairseq's parser got last


def option(default: Any, help: str) -> Any:
    """Return a field of a fairseq dataclass, for the command line and Hydra; ``--help`` prints ``help``.

    Types are spelt ``Optional[int]``, ``List[int]``: fairseq's option parser does not read ``int | None``.
    """
    return field(default=default, metadata={"help": help})


@replaces(dataclass_utils, "eval_str_list")
def _eval_whole(original: Callable[..., Any], given: Any, x_type: Any = float) -> Any:
    """The parser refuses ``--update-freq 1.5``, of which fairseq makes 1."""
    found = original(given, x_type)
    if x_type is int and isinstance(given, str) and found != original(given):
        raise ArgumentTypeError(f"{given} is not of whole numbers")
    return found


def was_typed(section: str, name: str) -> bool:
    """Whether a user typed an option, such as optimization.update_freq. A started rank knows none."""
    if HydraConfig.initialized():
        overrides = HydraConfig.get().overrides.task
        return f"{section}.{name}" in (override.partition("=")[0].lstrip("+") for override in overrides)
    return f"--{name.replace('_', '-')}" in (word.partition("=")[0] for word in _given)


@replaces(fairseq_options, "parse_args_and_arch")
def _parse_without_tpu(
    original: Callable[..., Any], parser: Any, input_args: list[str] | None = None, *rest: Any, **options: Any
) -> Any:
    """fairseq takes bf16 as the sign of a TPU, where nothing but torch_xla works. An explicit ``--tpu`` stays."""
    _given[:] = sys.argv[1:] if input_args is None else input_args
    if not _HELP.isdisjoint(_given) and any(word.partition("=")[0] in ("-a", "--arch") for word in _given):
        input_args = [word for word in _given if word not in _HELP]
        options["modify_parser"] = _help_of_the_whole(options.get("modify_parser"))
    parsed = original(parser, input_args, *rest, **options)
    args: Namespace = parsed[0] if isinstance(parsed, tuple) else parsed
    if getattr(args, "tpu", False) and "--tpu" not in _given:
        args.tpu = False
    return parsed


def _help_of_the_whole(modify: Callable[[Any], None] | None) -> Callable[[Any], None]:
    """fairseq modifies its parser at first, and once the options of task, model and the rest are in it.

    It parses in between, where ``--help`` would end with those of the first parser alone.
    """
    calls: list[Any] = []

    def modified(parser: Any) -> None:
        calls.append(parser)
        if modify is not None:
            modify(parser)
        if len(calls) == 2:
            parser.usage = "%(prog)s DATA [options]"  # or 200 lines of brackets stand before the first help
            parser.print_help()
            parser.exit()

    return modified
