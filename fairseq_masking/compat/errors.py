"""A ``UserError`` is one line on stderr and exit status 1, wherever in a fairseq command it was raised."""

import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from fairseq.dataclass import initialize
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from fairseq_masking.compat.patching import loaded_program, replace
from fairseq_masking.compat.recipes import refuse_open_keys
from fairseq_masking.errors import UserError

__all__ = [
    "exit_with",
    "leave_no_checkpoint_of_user_errors",
    "one_line",
    "show_user_errors_of_hydra_programs",
    "show_user_errors_outside_of_call_main",
    "user_error_in",
]

_HYDRA_PROGRAMS = ("fairseq_cli.hydra_train", "fairseq_cli.hydra_validate")


def user_error_in(error: BaseException) -> UserError | None:
    """The UserError behind an exception: itself, its cause or its context, however deep."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if isinstance(link, UserError):
            return link
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            pending += [link.__context__, link.__cause__]
    return None


def one_line(error: BaseException) -> str:
    """The message as one line. DataLoader workers and OmegaConf put several lines where one tells it all."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Original Traceback") for line in lines):  # sent by a DataLoader worker
        return lines[-1].partition("UserError: ")[2] or lines[-1]
    return " ".join(lines)


def exit_with(message: str) -> NoReturn:
    """Prints the line and leaves with status 1."""
    _print_line(message)
    sys.exit(1)


def show_user_errors_outside_of_call_main() -> None:
    """Covers what runs before and after ``call_main``: option parsing, configuration, a user's script."""
    replace(sys, "excepthook", _print_user_error)


def leave_no_checkpoint_of_user_errors() -> None:
    """Keeps the trainer from saving ``crash.pt`` for what is no crash. Called when a command starts."""
    from fairseq.trainer import Trainer  # late: it takes a while, and only commands need it

    replace(Trainer, "save_checkpoint", _save_unless_user_error)


def _print_user_error(
    original: Callable[..., Any], kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    user_error = user_error_in(error)
    if user_error is None:
        original(kind, error, trace)
    else:
        _print_line(one_line(user_error))


def _save_unless_user_error(original: Callable[..., Any], self: Any, *args: Any, **options: Any) -> Any:
    if isinstance(sys.exc_info()[1], UserError):
        return None
    return original(self, *args, **options)


def show_user_errors_of_hydra_programs() -> None:
    """Covers what runs inside Hydra, which prints tracebacks of its own before any excepthook is asked.

    A value in a YAML file that a dataclass of the plugin refuses counts as the user's error, too.
    """
    for module in map(loaded_program, _HYDRA_PROGRAMS):
        if module is not None and hasattr(module, "_hydra_main"):
            replace(module, "_hydra_main", _run_hydra_main)


def _run_hydra_main(original: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        refuse_open_keys(args[0])
        return original(*args, **options)
    except Exception as error:
        shown = user_error_in(error) or _configuration_error_in(error)
        if shown is None:
            raise
        exit_with(one_line(shown))


def _configuration_error_in(error: Exception) -> Exception | None:
    if isinstance(error, MissingMandatoryValue):
        return error
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    merging = isinstance(error, OmegaConfBaseException) and initialize.add_defaults.__code__ in codes
    return error if merging else None


def _print_line(message: str) -> None:
    sys.stdout.flush()
    print(f"fairseq_masking: error: {message}", file=sys.stderr, flush=True)
