"""A ``UserError`` is one line on stderr and exit status 1, wherever in a fairseq command it was raised."""

import linecache
import logging
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import fairseq
import fairseq_cli
from fairseq.dataclass import initialize
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

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
    "users_error_in",
]

logger = logging.getLogger(__name__)

_FAIRSEQ = tuple(os.path.realpath(module.__path__[0]) + os.sep for module in (fairseq, fairseq_cli))
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


def users_error_in(error: Exception) -> Exception | None:
    """The UserError behind an exception, or what fairseq itself has raised of a user's input, which is one as well.

    That is a ValueError, AssertionError or bare Exception with words of its own, or the system's error about a
    file by name. LOGLEVEL=DEBUG shows where such a one comes from.
    """
    shown: Exception | None = user_error_in(error)
    if shown is None and (words := _words_of_fairseq(error)):
        logger.debug("fairseq's own error", exc_info=error)
        shown = UserError(words)
    return shown


def _words_of_fairseq(error: Exception) -> str:
    frames = [
        (os.path.realpath(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    in_fairseq = [file.startswith(_FAIRSEQ) for file, _ in frames]
    if isinstance(error, OSError) and error.filename is not None and any(in_fairseq):
        return f"{error.filename}: {error.strerror}"
    if (
        not in_fairseq
        or not in_fairseq[-1]
        or not (isinstance(error, (ValueError, AssertionError)) or type(error) is Exception)
    ):
        return ""
    raises = linecache.getline(*frames[-1]).lstrip().startswith(("raise", "assert"))  # or Python does, of a bug
    return str(error) if raises else ""


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
    """Keeps the trainer from saving ``crash.pt`` for what is told in one line. Called when a command starts."""
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
    if isinstance(sys.exc_info()[1], (UserError, FloatingPointError)):
        return None
    return original(self, *args, **options)


def show_user_errors_of_hydra_programs() -> None:
    """Covers what runs inside Hydra, which prints tracebacks of its own before any excepthook is asked, and Hydra.

    A value in a YAML file that a dataclass of the plugin refuses counts as the user's error, too.
    """
    for module in map(loaded_program, _HYDRA_PROGRAMS):
        if module is not None and hasattr(module, "_hydra_main"):
            replace(module, "_hydra_main", _run_hydra_main)
            replace(hydra_utils, "run_and_report", _report_in_one_line)


def _run_hydra_main(original: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        if HydraConfig.initialized():
            refuse_open_keys(args[0], HydraConfig.get().overrides.task)
        return original(*args, **options)
    except Exception as error:
        shown = users_error_in(error) or _configuration_error_in(error)
        if shown is None:
            raise
        exit_with(one_line(shown))


def _report_in_one_line(original: Callable[..., Any], function: Callable[[], Any]) -> Any:
    """What Hydra refuses: a misspelt key or group, a value of another type, YAML that is none."""

    def reported() -> Any:
        try:
            return function()
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            reasons = [
                one_line(link).partition(" Config search path")[0]
                for link in (error, error.__cause__)
                if link is not None
            ]
            way_out = "the keys, groups and values that there are: --cfg job after the command"
            exit_with(f"{': '.join(dict.fromkeys(reasons))}; {way_out}")

    return original(reported)


def _configuration_error_in(error: Exception) -> Exception | None:
    if isinstance(error, MissingMandatoryValue):
        return error
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    merging = isinstance(error, OmegaConfBaseException) and initialize.add_defaults.__code__ in codes
    return error if merging else None


def _print_line(message: str) -> None:
    sys.stdout.flush()
    print(f"fairseq_masking: error: {message}", file=sys.stderr, flush=True)
