"""Every option means the same on fairseq-train's command line and as a Hydra key."""

import dataclasses
import enum
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fairseq import options
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

import fairseq_masking  # noqa: F401 - registers what is compared

SECTIONS = ("task", "model", "criterion", "optimizer", "lr_scheduler")
OUR_MODELS = ("mlm", "map_net", "three_ml", "amos")
OUR_CRITERIONS = ("mlm", "fully_explored_mlm", "map_net", "amos", "scored_sentence_prediction", "squad")
SHAPES = ("tiny", "small", "base", "large")


def archs() -> list[str]:
    names = [f"{model}_{shape}" for model in OUR_MODELS for shape in SHAPES]
    return [name for name in names if name in ARCH_MODEL_NAME_REGISTRY]


def criterions() -> list[str]:
    return [name for name in OUR_CRITERIONS if name in CRITERION_DATACLASS_REGISTRY]


def from_command_line(arch: str, criterion: str, more: list[str], task: str = "masked_pretraining") -> dict[str, Any]:
    """What ``fairseq-train`` makes of its options."""
    fixed = ["DATA", "--task", task, "--arch", arch, "--criterion", criterion]
    fixed += ["--optimizer", "adam", "--lr-scheduler", "polynomial_decay", "--max-update", "10"]
    fixed += ["--total-num-update", "10"]  # the command line does not take it from --max-update, Hydra does
    args = options.parse_args_and_arch(options.get_training_parser(), [*fixed, *more])
    return OmegaConf.to_container(convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True)


def from_hydra(arch: str, criterion: str, more: list[str], task: str = "masked_pretraining") -> dict[str, Any]:
    """What ``fairseq-hydra-train`` makes of the same."""
    fixed = [f"task={task}", "task.data=DATA", f"model={arch}", f"criterion={criterion}"]
    fixed += ["optimizer=adam", "lr_scheduler=polynomial_decay", "optimization.max_update=10"]
    hydra_init("config")
    GlobalHydra.instance().clear()
    with initialize_config_module("fairseq.config", version_base="1.1"):
        cfg = compose("config", overrides=[*fixed, *more])
    add_defaults(cfg)
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)


def assert_same(arch: str, criterion: str, more: list[tuple[str, str, Any]], task: str = "masked_pretraining") -> None:
    flags = [part for _, option, value in more for part in as_flag(option, value)]
    keys = [f"{section}.{option}={as_key(value)}" for section, option, value in more]
    ours, theirs = (from_command_line(arch, criterion, flags, task), from_hydra(arch, criterion, keys, task))
    for section in SECTIONS:
        assert ours[section] == theirs[section], section
    for section, option, value in more:
        assert theirs[section][option] == (value.value if isinstance(value, enum.Enum) else value)


def as_flag(option: str, value: Any) -> list[str]:
    flag = "--" + option.replace("_", "-")
    if isinstance(value, list):
        return [flag, ",".join(map(str, value))]
    return [flag] if isinstance(value, bool) else [flag, str(value)]


def as_key(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def other_values(section: str, dataclass: type) -> Iterator[tuple[str, str, Any]]:
    """A value that is no default for every option of a dataclass that does not come from another section."""
    for field in dataclasses.fields(dataclass):
        default = field.default
        interpolated = isinstance(default, str) and default.startswith("${")
        if field.name.startswith("_") or field.name == "data" or interpolated:
            continue
        kind = str(field.type)
        if isinstance(field.type, type) and issubclass(field.type, enum.Enum):
            value: Any = next(choice.value for choice in field.type if choice.value != str(default))
        elif "List" in kind:
            value = [2, 7] if "int" in kind else [0.25, 0.75]
        elif "bool" in kind:
            value = not default
        elif "int" in kind:
            value = 7 if default is None else int(default) + 3
        elif "float" in kind:
            value = 0.375
        else:
            continue  # free text, covered where it is read
        yield section, field.name, value


@pytest.mark.parametrize("criterion", criterions())
def test_defaults_of_criterions(criterion: str) -> None:
    assert_same("mlm_tiny", criterion, [])


@pytest.mark.parametrize("arch", archs())
def test_defaults_of_archs(arch: str) -> None:
    assert_same(arch, "mlm", [])


@pytest.mark.parametrize(
    ("task", "criterion", "some"),
    [
        ("masked_pretraining", "mlm", {"mask_prob", "mask_unit", "mask_splits", "tokens_per_sample"}),
        ("squad", "squad", {"tokens_per_sample", "doc_stride", "question_tokens"}),
    ],
)
def test_every_option_of_a_task(task: str, criterion: str, some: set[str]) -> None:
    more = list(other_values("task", TASK_DATACLASS_REGISTRY[task]))
    assert {name for _, name, _ in more} >= some
    assert_same("mlm_tiny", criterion, more, task)


@pytest.mark.parametrize("model", [name for name in OUR_MODELS if name in MODEL_DATACLASS_REGISTRY])
def test_every_option_of_a_model(model: str) -> None:
    more = list(other_values("model", MODEL_DATACLASS_REGISTRY[model]))
    assert {name for _, name, _ in more} >= {"encoder_layers", "dropout"}
    assert_same(f"{model}_tiny", "mlm", more)


@pytest.mark.parametrize("criterion", criterions())
def test_every_option_of_a_criterion(criterion: str) -> None:
    assert_same("mlm_tiny", criterion, list(other_values("criterion", CRITERION_DATACLASS_REGISTRY[criterion])))


@pytest.mark.parametrize("override", ["task.mask_probability=0.1", "task.mask_unit=letter", "model.dropout=no"])
def test_unknown_and_ill_typed_options_are_refused(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match=re.escape(override)):
        from_hydra("mlm_tiny", "mlm", [override])
