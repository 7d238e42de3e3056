"""A ``UserError`` is one line on stderr and exit status 1, wherever in a fairseq command it was raised."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import fairseq
import fairseq_cli
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from fairseq_masking.compat.patching import loaded_program, replace, replaces
from fairseq_masking.compat.recipes import refuse_open_keys
from fairseq_masking.errors import UserError, first_line

__all__ = [
    "exit_with", "one_line", "show_user_errors_of_hydra_programs", "show_user_errors_outside_of_call_main",
    "user_error_in", "users_error_in",
]  # fmt: skip

logger = logging.getLogger(__name__)

_PACKAGE = str(Path(__file__).parents[1])
_REFUSED = (HydraException, OmegaConfBaseException, YAMLError)
_SAID = (ValueError, AssertionError)
# What a value can lead to where it is evaluated, or built with.
_OF_VALUES = (ArithmeticError, AssertionError, LookupError, NameError, SyntaxError, TypeError, ValueError)
_OPTION = re.compile(r"""(?:cfg|args)(?:\.|, ")(\w+)""")
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


def users_error_in(error: BaseException) -> Exception | None:
    """The UserError behind an exception, or what fairseq, Hydra and OmegaConf say of a user's input, as one.

    That is fairseq's ValueError, AssertionError or bare Exception with words of its own, the system's error about a
    file by name, a value that its schema refuses, and whatever comes of one that it evaluates or builds an optimizer
    with, whose option is named. LOGLEVEL=DEBUG shows where such a one comes from.
    """
    shown: Exception | None = user_error_in(error)
    if shown is None and (words := _words_of_fairseq(error)):
        logger.debug("fairseq's own error", exc_info=error)
        shown = UserError(words)
    return shown


def _words_of_fairseq(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if os.path.realpath(frame.filename).startswith(_FAIRSEQ)]
    if not own:
        return ""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MissingMandatoryValue) or (isinstance(error, _REFUSED) and "dataclass" in own[-1].filename):
        return _reasons(error)
    line = own[-1].line or ""
    raises = isinstance(error, AssertionError) or line.startswith("raise")  # else Python does, of a bug
    if raises and own[-1] is frames[-1] and (isinstance(error, _SAID) or type(error) is Exception) and str(error):
        return str(error)
    evaluates = "eval(" in line or any(frame.name == "_build_optimizer" for frame in own)
    named = [found[1] for frame in reversed(own) if (found := _OPTION.search(frame.line or ""))]
    if evaluates and named and isinstance(error, _OF_VALUES) and not frames[-1].filename.startswith(_PACKAGE):
        words = first_line(error) if str(error) else f"fairseq has: {line}"
        return f"--{named[0].replace('_', '-')} cannot be used ({type(error).__name__}: {words}): give another value"
    return ""


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


def _print_user_error(
    original: Callable[..., Any], kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    commands = any(frame.f_code.co_name == "cli_main" for frame, _ in traceback.walk_tb(trace))
    shown = users_error_in(error) if commands else user_error_in(error)  # else a user's script, with errors of its own
    if shown is None:
        original(kind, error, trace)
    else:
        _print_line(one_line(shown))


@replaces("fairseq.trainer:Trainer", "save_checkpoint")
def _save_unless_user_error(original: Callable[..., Any], self: Any, *args: Any, **options: Any) -> Any:
    """No ``crash.pt`` for what is told in one line."""
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
        shown = users_error_in(error)
        if shown is None:
            raise
        exit_with(one_line(shown))


def _report_in_one_line(original: Callable[..., Any], function: Callable[[], Any]) -> Any:
    """What Hydra refuses: a misspelt key or group, a value of another type, YAML that is none."""

    def reported() -> Any:
        try:
            return function()
        except _REFUSED as error:
            way_out = "the keys, groups and values that there are: --cfg job after the command"
            exit_with(f"{_reasons(error)}; {way_out}")
        except (NotADirectoryError, PermissionError) as error:  # hydra.run.dir
            exit_with(f"{error.filename}: {error.strerror}")

    return original(reported)


def _reasons(error: BaseException) -> str:
    links = [link for link in (error, error.__cause__) if link is not None]
    return ": ".join(dict.fromkeys(one_line(link).partition(" Config search path")[0] for link in links))


def _print_line(message: str) -> None:
    sys.stdout.flush()
    print(f"fairseq_masking: error: {message}", file=sys.stderr, flush=True)
