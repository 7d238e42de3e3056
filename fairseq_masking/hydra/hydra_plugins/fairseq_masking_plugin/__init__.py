"""Hydra plugin: makes ``fairseq-hydra-train task=masked_pretraining model=mlm_base ...`` find its groups.

fairseq imports ``common.user_dir`` after Hydra has composed the configuration, too late for the groups and
types that the package registers. Hydra asks plugins for search paths before it composes: this one takes the
chance to register them. Every other Hydra program, and fairseq with another plugin, is left alone.
"""

import argparse
import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

__all__ = ["FairseqMaskingPlugin"]

_PACKAGE = "fairseq_masking"
_PROGRAMS = ("fairseq_cli.hydra_train", "fairseq_cli.hydra_validate")
_USER_DIR_KEYS = ("common.user_dir", "+common.user_dir", "++common.user_dir")


class FairseqMaskingPlugin(SearchPathPlugin):
    """Registers the package's tasks, models and criterions; its configs/ can be searched as a last resort."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes a configuration."""
        user_dir = _user_dir_on_the_command_line(sys.argv[1:])
        if not _is_fairseq_program():
            return
        if user_dir is not None and not (user_dir.exists() or _is_in_fairseq(user_dir)):
            _exit_with(f"common.user_dir={user_dir}: no such folder")
        if user_dir is not None and user_dir.name != _PACKAGE:
            return
        if _import_package(user_dir):
            from fairseq_masking.files import configs_folder

            # What fairseq and Hydra have to settle between them, before a line of the run itself.
            warnings.filterwarnings("ignore", r"\s*'.*' is validated against ConfigStore schema", UserWarning)
            search_path.append(provider=_PACKAGE, path=f"file://{configs_folder()}")
            parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            parser.add_argument("--config-dir", "-cd")
            if folder := parser.parse_known_args()[0].config_dir:  # before fairseq's own config.yaml
                search_path.prepend(provider="command-line", path=f"file://{os.path.abspath(folder)}")


def _is_fairseq_program() -> bool:
    main_spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return getattr(main_spec, "name", None) in _PROGRAMS or any(name in sys.modules for name in _PROGRAMS)


def _is_in_fairseq(user_dir: Path) -> bool:
    """fairseq looks for a relative path in its own folder and beside it, too."""
    own, given = Path(importlib.import_module("fairseq").__path__[0]), os.path.relpath(user_dir)
    return (own / given).exists() or (own.parent / given).exists()


def _user_dir_on_the_command_line(arguments: list[str]) -> Path | None:
    for argument in reversed(arguments):
        key, equals, value = argument.partition("=")
        if equals and key in _USER_DIR_KEYS and value not in ("", "null"):
            return Path(os.path.abspath(value.strip("'\"")))
    return None


def _import_package(user_dir: Path | None) -> bool:
    """Imports and registers the package, from the folder that the user names; False where there is none."""
    if user_dir is not None and _PACKAGE not in sys.modules:
        sys.path.insert(0, str(user_dir.parent))
    try:
        importlib.import_module(_PACKAGE).register()
    except ModuleNotFoundError as error:
        if error.name == _PACKAGE:  # the plugin's folder is on the path, its package is not
            return False
        raise
    except ValueError as error:
        if type(error).__name__ != "UserError":
            raise
        _exit_with(str(error))
    return True


def _exit_with(message: str) -> NoReturn:
    print(f"{_PACKAGE}: error: {message}", file=sys.stderr)
    sys.exit(1)
