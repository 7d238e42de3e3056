"""What a recipe leaves open with ``???`` must be given: OmegaConf's merge keeps the schema's default instead."""

from collections.abc import Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fairseq_masking.errors import UserError

__all__ = ["refuse_open_keys"]

# A start, of which one will do.
_STARTS = ("model.init_from", "checkpoint.finetune_from_model")


def refuse_open_keys(cfg: DictConfig) -> None:
    """Look for ``???`` in the YAML files that a Hydra program was composed from.

    Raises:
        UserError: a key that one of them leaves open has no value from another or from the command line.
    """
    if not HydraConfig.initialized():
        return
    run = HydraConfig.get()
    overridden = [override.partition("=")[0].lstrip("+") for override in run.overrides.task]
    folders = [Path(source.path) for source in run.runtime.config_sources if source.schema == "file"]
    chosen = [(str(run.job.config_name).removesuffix(".yaml"), "")]
    for group, choice in run.runtime.choices.items():
        name, _, package = group.partition("@")
        chosen.append((f"{name}/{choice}", package or name.replace("/", ".")))
    values = [found for name, package in chosen for found in _values(name, package, folders)]
    given = {key for _, key, value in values if value != "???"} | set(overridden)
    started = any(OmegaConf.select(cfg, key) for key in _STARTS)
    for path, key, value in values:
        # null is no value either, unless it is that of the other start
        closed = started if key in _STARTS else key in given and OmegaConf.select(cfg, key) is not None
        if value == "???" and not closed:
            other = f" or {_STARTS[1]}=CHECKPOINT" if key == _STARTS[0] else ""
            raise UserError(f"{path} leaves {key} open (???): give {key}=VALUE{other} on the command line")


def _values(name: str, package: str, folders: list[Path]) -> Iterator[tuple[Path, str, object]]:
    """File, key and value of all leaves of a configuration, and of those that its defaults list names beside it."""
    path = next((path for folder in folders if (path := folder / f"{name}.yaml").exists()), None)
    if path is None:
        return
    content = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict):
        return
    for base in content.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            yield from _values(base, package, folders)
    pending = [(package, content)]
    while pending:
        prefix, node = pending.pop()
        for part, value in node.items():
            key = f"{prefix}.{part}".lstrip(".")
            if isinstance(value, dict):
                pending.append((key, value))
            else:
                yield path, key, value
