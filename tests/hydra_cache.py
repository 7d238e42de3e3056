"""What Hydra works out anew in every composition and finds the same, kept: half of what starts a training.

Imported for its effect, by conftest.py and fork_server.py: the commands of tests/test_wheel.py, in interpreters
of their own, are without it.
"""

import copy
import functools

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

__all__ = ["read_overrides"]

_parse_rule = OverridesParser.parse_rule


@functools.cache
def _parsed(text: str, rule: str) -> object:
    """What a text is by a rule of the grammar, which the parser of each composition would read again."""
    return _parse_rule(OverridesParser.create(), text, rule)


def read_overrides(training: str) -> None:
    """Read those that a training's options make, before it is forked: most are of options that nobody gives."""
    from fairseq import options
    from fairseq.dataclass.utils import override_module_args

    words = f"- {training} --optimizer adam --lr-scheduler polynomial_decay".split()
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    for override in override_module_args(args)[0]:
        _parsed(override, "override")


OverridesParser.parse_rule = lambda self, text, rule: copy.copy(_parsed(text, rule))
ConfigStore.__deepcopy__ = lambda self, memo: self  # a composition copies it, to write nothing into it
