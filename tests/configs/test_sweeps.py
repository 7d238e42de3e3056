"""What the scripts of sweeps would run: every command is valid, and both ways to train say the same."""

import os
import shlex
import subprocess
from ast import literal_eval

import pytest
from commands import ROOT
from fairseq import options
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import fairseq_masking  # noqa: F401 - registers the groups

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq still works in the way of Hydra 1.0

SWEEPS = {"scripts/three_ml_sweeps.sh": 9, "scripts/amos_mixtures.sh": 13}
SHARED = ("task", "model", "criterion", "optimizer", "lr_scheduler", "optimization", "dataset")


def sweep(script, *arguments):
    return subprocess.run(
        ["bash", str(ROOT / script), *arguments], capture_output=True, text=True, timeout=120,
        env=dict(os.environ), check=False,
    )  # fmt: skip


def commands_of(script, folder, *arguments):
    done = sweep(script, "--data", "/nowhere", "--out", str(folder), "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return [shlex.split(line) for line in done.stdout.splitlines()]


def choices_of(command):
    """Key and values of each override: a comma outside brackets and quotes makes several."""
    pairs = [override.split("=", 1) for override in command[command.index("--config-name") + 2 :]]
    return {key: [value] if value[0] in "['" else value.split(",") for key, value in pairs}


def composed(recipe, overrides):
    hydra_init(recipe)
    with initialize_config_dir(config_dir=str(ROOT / "configs/pretrain"), version_base="1.1"):
        cfg = compose(
            recipe, overrides=[f"{key}={value}" for key, value in overrides.items() if not key.startswith("hydra.")]
        )
    add_defaults(cfg)
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)


@pytest.mark.parametrize("script", SWEEPS)
def test_every_command_is_possible_and_every_run_has_a_folder_of_its_own(script, tmp_path):
    commands = commands_of(script, tmp_path, "--updates", "300", "common.seed=7")
    assert len(commands) == SWEEPS[script]
    folders = set()
    for command in (command for command in commands if command[0] == "fairseq-hydra-train"):
        choices = choices_of(command)
        varying = [key for key, values in choices.items() if len(values) > 1]
        assert all("${" + key + "}" in choices["hydra.sweep.subdir"][0] for key in varying)
        recipe = command[command.index("--config-name") + 1]
        cfg = composed(recipe, {key: values[-1] for key, values in choices.items()})
        assert cfg["optimization"]["max_update"] == 300 and cfg["common"]["seed"] == 7
        assert cfg["checkpoint"]["save_dir"].startswith(f"{tmp_path}/")
        folders.add(choices["hydra.sweep.subdir"][0])
    assert len(folders) == sum(command[0] == "fairseq-hydra-train" for command in commands)


def test_both_commands_train_amos_alike(tmp_path):
    commands = commands_of("scripts/amos_mixtures.sh", tmp_path)
    others = [command for command in commands if command[0] == "fairseq-train"]
    given = ({"model.mixture": "uniform"}, {"model.separate_generators": "[1,2,3]"})
    updates = {"optimization.max_update": "500", "dataset.validate_interval_updates": "500"}
    for command, overrides in zip(others, given, strict=True):
        args = options.parse_args_and_arch(options.get_training_parser(), command[1:])
        cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True)
        assert cfg["checkpoint"]["save_dir"] == os.path.dirname(cfg["common"]["log_file"])
        cfg["optimizer"]["adam_betas"] = list(literal_eval(cfg["optimizer"]["adam_betas"]))
        twin = composed("amos_tiny", {"task.data": "/nowhere", **updates, **overrides})
        for group in SHARED:
            for key, value in twin[group].items():
                assert cfg[group].get(key, value) == value, f"{group}.{key}"


@pytest.mark.parametrize("script", SWEEPS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing"),
        (["--data", "a"], "--out is missing"),
        (["--data", "a", "--out", "b", "--only", "none"], "unknown part none"),
        (["--data", "a", "--out", "b", "--updates", "many"], "--updates many is not a number above 0"),
        (["--data", "a", "--out", "b", "--updates", "99"], "--updates 99 is below 100"),
        (["--data", "a", "--fast"], "unknown option --fast"),
        (["--data", "a", "positional"], "'positional' is neither"),
    ],
)
def test_wrong_options_are_one_line(script, arguments, message):
    done = sweep(script, *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert done.stderr.startswith(os.path.basename(script))
