"""Every option with type, default, choices and help; sizes, Hydra's groups, operators, registered names."""

import dataclasses
import enum
from argparse import Namespace
from typing import Any

import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from fairseq_masking import models

__all__ = ["snapshot"]

_PACKAGE = "fairseq_masking"


def snapshot() -> dict[str, Any]:
    """All of it, fit for JSON; in no place a module's name."""
    registries = {
        "task": (TASK_REGISTRY, TASK_DATACLASS_REGISTRY),
        "criterion": (CRITERION_REGISTRY, CRITERION_DATACLASS_REGISTRY),
        "model": (MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY),
        **{kind: (r["registry"], r["dataclass_registry"]) for kind, r in REGISTRIES.items()},
    }
    own = {
        kind: {name: found for name, found in classes.items() if _is_ours(found)}
        for kind, (classes, _) in registries.items()
    }
    return {
        "registered": {kind: sorted(classes) for kind, classes in own.items() if classes},
        "options": {
            f"{kind}={name}": _options(registries[kind][1][name]) for kind, classes in own.items() for name in classes
        },
        "archs": {arch: _sizes(arch) for arch, name in ARCH_MODEL_NAME_REGISTRY.items() if name in own["model"]},
        "hydra": dict(_nodes(ConfigStore.instance().repo, "", own)),
        "operators": sorted(
            str(schema) for schema in torch._C._jit_get_all_schemas() if schema.name.startswith(f"{_PACKAGE}::")
        ),
        "models": {name: [found.__name__, hasattr(models, found.__name__)] for name, found in own["model"].items()},
    }


def _is_ours(found: Any) -> bool:
    return getattr(found, "__module__", "").partition(".")[0] == _PACKAGE


def _options(dataclass: type) -> dict[str, Any]:
    return {option.name: _option(option) for option in dataclasses.fields(dataclass)}


def _option(option: dataclasses.Field) -> dict[str, Any]:
    default = option.default
    if default is dataclasses.MISSING and option.default_factory is not dataclasses.MISSING:
        default = option.default_factory()
    kind, choices = option.type, None
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        kind, choices = "choice", [choice.value for choice in kind]
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    help_ = option.metadata.get("help")
    rest = {key: str(value) for key, value in option.metadata.items() if key != "help"}
    return {"type": name, "default": _plain(default), "choices": choices, "help": help_, "more": rest}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return value if isinstance(value, int | float | str | list | type(None)) else repr(value)


def _sizes(arch: str) -> dict[str, Any]:
    """What ``--arch`` fills in where the command line says nothing."""
    given = Namespace()
    ARCH_CONFIG_REGISTRY[arch](given)
    return vars(given)


def _nodes(repo: Any, group: str, own: dict[str, Any]) -> Any:
    """Group/name -> provider, package and values of each of our nodes."""
    for name, node in sorted(repo.items()):
        path = f"{group}/{name}".lstrip("/")
        if isinstance(node, dict):
            yield from _nodes(node, path, own)
            continue
        config, stem = node.node, name.removesuffix(".yaml")
        kind = OmegaConf.get_type(config) if isinstance(config, DictConfig) else None
        # fairseq stores a plain value for a few classes of its own.
        if (kind is not None and _is_ours(kind)) or stem in own.get(group, {}):
            values = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
            yield path, {"provider": node.provider, "package": node.package, "values": values}
