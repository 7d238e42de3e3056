"""Recipes that build on one another: fairseq's schema comes before them all, and what they leave open must be given.

fairseq is written for Hydra 1.0, which merged a schema of the recipe's name into it before what it builds on. Since
Hydra 1.1 that comes first, and the schema's values would overwrite it.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults, hydra_init
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigNode
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from fairseq_masking.compat.patching import replaces
from fairseq_masking.errors import UserError

__all__ = ["composed", "hardware_of", "hardware_of_recipe", "refuse_open_keys"]

_SCHEMA = "fairseq_schema"
_OPENED = "fairseq_masking_opened"  # an attribute of Hydra's loader: open key -> file
# A start, of which one will do.
_STARTS = ("model.init_from", "checkpoint.finetune_from_model")


def composed(folder: Path, name: str, overrides: list[str]) -> DictConfig:
    """Return the configuration that fairseq-hydra-train has of a recipe.

    Raises:
        UserError: there is no such recipe or key, or one is left open.
    """
    from fairseq_masking.compat.errors import one_line  # late: it imports this

    if not (folder / f"{name}.yaml").is_file():
        raise UserError(f"--config {name}: no recipe {folder / name}.yaml (--config-dir {folder})")
    hydra_init(name)
    try:
        warnings.filterwarnings("ignore", module=r"fairseq_masking|hydra")  # of fairseq's old Hydra ways
        with initialize_config_dir(config_dir=str(folder), version_base="1.1"):
            cfg = compose(name, overrides=overrides)
            refuse_open_keys(cfg, overrides)
    except HydraException as error:
        raise UserError(f"{folder / name}.yaml: {one_line(error)}") from error
    add_defaults(cfg)
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def refuse_open_keys(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Look for ``???`` in the YAML files of the configuration that Hydra has composed last.

    OmegaConf's merge keeps the schema's default in its place.

    Raises:
        UserError: a key that one of them leaves open has no value from a later one or from the command line.
    """
    opened = getattr(GlobalHydra.instance().config_loader(), _OPENED, {})
    overridden = {override.partition("=")[0].lstrip("+") for override in overrides}
    started = any(OmegaConf.select(cfg, key) for key in _STARTS)
    for key, path in opened.items():
        # null is no value either, unless it is that of the other start
        closed = started if key in _STARTS else key in overridden and OmegaConf.select(cfg, key) is not None
        if not closed:
            other = f" or {_STARTS[1]}=CHECKPOINT" if key == _STARTS[0] else ""
            raise UserError(f"{path} leaves {key} open (???): give {key}=VALUE{other} on the command line")


def hardware_of(recipe: Path) -> str:
    """Return what a recipe's header says of machines and hours; "" for nothing."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("# Hardware:")), "")


def hardware_of_recipe() -> str:
    """Return the same of the recipe that fairseq-hydra-train runs; "" where there is none."""
    if not HydraConfig.initialized():
        return ""
    run = HydraConfig.get()
    folders = [Path(source.path) for source in run.runtime.config_sources if source.schema == "file"]
    recipes = [folder / f"{run.job.config_name}.yaml" for folder in folders]
    return next((hardware_of(recipe) for recipe in recipes if recipe.is_file()), "")


@replaces(ConfigLoaderImpl, "_compose_config_from_defaults_list")
def _compose(original: Callable[..., DictConfig], self: Any, defaults: list[ResultDefault], repo: Any) -> DictConfig:
    """Start from fairseq's schema, in place of merging it into the file named by ``--config-name``."""
    store = repo.get_schema_source().store.repo  # Hydra's own, or a copy of it
    schemas = {name: node for name, node in store.items() if _is_fairseqs(node)}
    name = next((f"{default.config_path}.yaml" for default in defaults if default.primary), None)
    if name not in schemas:
        return original(self, defaults, repo)
    own = [default for default in defaults if not str(default.config_path).startswith("hydra/")]
    hydras = [default for default in defaults if default not in own]
    for other in schemas:
        del store[other]
    store[f"{_SCHEMA}.yaml"] = schemas[name]
    opened: dict[str, str] = {}
    try:
        for path, key, value in _written(self, own, repo):
            opened.pop(key, None)
            if value == "???":
                opened[key] = path
        setattr(self, _OPENED, opened)
        return original(self, [*hydras, ResultDefault(config_path=_SCHEMA, package=""), *own], repo)
    finally:
        del store[f"{_SCHEMA}.yaml"]
        store.update(schemas)


def _is_fairseqs(node: Any) -> bool:
    return isinstance(node, ConfigNode) and OmegaConf.get_type(node.node) is FairseqConfig


def _written(loader: Any, defaults: list[ResultDefault], repo: Any) -> Iterator[tuple[str, str, object]]:
    """File, key and value of all leaves of the YAML files of a configuration, in the order of their merge."""
    for default in defaults:
        found = loader._load_single_config(default=default, repo=repo)
        if not found.path.startswith("file://"):
            continue
        path = f"{found.path.removeprefix('file://')}/{str(default.config_path).removesuffix('.yaml')}.yaml"
        pending = [("", OmegaConf.to_container(found.config))]
        while pending:
            prefix, node = pending.pop()
            for part, value in node.items():
                key = f"{prefix}.{part}".lstrip(".")
                if isinstance(value, dict):
                    pending.append((key, value))
                else:
                    yield path, key, value
