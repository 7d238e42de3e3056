"""What Hydra works out anew in every composition and finds the same, kept: half of what starts a training.

Imported for its effect, by conftest.py and fork_server.py: the commands of tests/test_wheel.py, in interpreters
of their own, are without it.
"""

import copy
import functools
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

__all__ = ["read_overrides"]

_parse_rule, _store = OverridesParser.parse_rule, ConfigStore.store
_stored: dict[str, tuple[Any, Any]] = {}  # a name outside of groups -> what was given, what lies there


@functools.cache
def _parsed(text: str, rule: str) -> object:
    """What a text is by a rule of the grammar, which the parser of each composition would read again."""
    return _parse_rule(OverridesParser.create(), text, rule)


def read_overrides(training: str) -> None:
    """Read those that a training's options make, before it is forked: most are of options that nobody gives.

    fairseq's groups are stored then, too.
    """
    from fairseq import options
    from fairseq.dataclass.initialize import hydra_init
    from fairseq.dataclass.utils import override_module_args

    words = f"- {training} --optimizer adam --lr-scheduler polynomial_decay".split()
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    for override in override_module_args(args)[0]:
        _parsed(override, "override")
    hydra_init()


def _store_once(self: ConfigStore, name: str, node: Any, group: str | None = None, **rest: Any) -> None:
    """fairseq stores its groups before each training: what is there already, from the same node, stays."""
    before = _stored.get(name)
    if group is None and before and before[0] is node and self.repo.get(f"{name}.yaml") is before[1]:
        return
    _store(self, name, node, group, **rest)
    if group is None:
        _stored[name] = node, self.repo[f"{name}.yaml"]


OverridesParser.parse_rule = lambda self, text, rule: copy.copy(_parsed(text, rule))
ConfigStore.store = _store_once
ConfigStore.__deepcopy__ = lambda self, memo: self  # a composition copies it, to write nothing into it
