"""Recipes as Hydra composes them."""

import copy
import functools
from pathlib import Path
from typing import Any

import yaml
from fairseq.dataclass.initialize import hydra_init
from hydra import compose, initialize_config_dir

import fairseq_masking  # noqa: F401 - registers the groups

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GROUPS = ("task", "model", "criterion", "optimizer", "lr_scheduler")


def composed(path: Path, *overrides: str) -> Any:
    """Return what fairseq-hydra-train makes of a recipe, the caller's to change."""
    return copy.deepcopy(_composed(path, *overrides))


@functools.cache
def _composed(path: Path, *overrides: str) -> Any:
    hydra_init(path.stem)
    with initialize_config_dir(config_dir=str(path.parent), version_base="1.1"):
        return compose(path.stem, overrides=["task.data=/nowhere", *overrides])


def header(path: Path) -> str:
    """Return the comment that a recipe opens with."""
    text = path.read_text(encoding="utf-8")
    return text[: text.index("\ndefaults:")]


def assert_as_written(cfg: Any, path: Path) -> None:
    """Check that what the file says is what came out, and that all groups are chosen and typed."""
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    for group, values in written.items():
        if group in ("defaults", "hydra"):
            continue
        for key, value in values.items():
            if value != "???" and "${" not in str(value):
                assert cfg[group][key] == value, f"{group}.{key}"
    chosen = {group: name for entry in written["defaults"] if entry != "_self_" for group, name in entry.items()}
    assert set(chosen) == set(GROUPS)
    assert {group: cfg[group]._name for group in GROUPS} == chosen
