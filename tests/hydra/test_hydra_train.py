"""``fairseq-hydra-train`` by recipe: typed, resumed in place, on two ranks (by groups: test_wheel.py)."""

import shutil
from pathlib import Path

import pytest
import torch
from commands import ROOT, Finished, assert_one_line_error, run_command

SMALL = [
    "task.tokens_per_sample=32",
    "dataset.batch_size=4",
    "dataset.num_workers=0",
    "optimization.lr=[0.001]",
    "common.log_format=simple",
    "common.log_interval=1",
    "common.cpu=true",
    "checkpoint.save_dir=save",
]
GROUPS = ["task=masked_pretraining", "model=mlm_tiny", "criterion=mlm"]
GROUPS += ["optimizer=adam", "lr_scheduler=polynomial_decay"]
RECIPE = ["--config-dir", ROOT / "configs/pretrain", "--config-name", "mlm_tiny"]


def hydra_train(folder: Path, *arguments: str | Path) -> Finished:
    return run_command(["fairseq-hydra-train", *arguments], cwd=folder, server="plain")


def test_recipe_resumed_on_two_ranks(small_data: Path, tmp_path: Path) -> None:
    """An option of the recipe is overridden; the second run goes on in the same folder."""
    options = [*RECIPE, f"task.data={small_data}", *SMALL, "model.encoder_layers=3"]
    first = hydra_train(tmp_path, *options, "optimization.max_update=2")
    assert first.returncode == 0, first.stderr[-4000:]
    two_ranks = "distributed_training.distributed_world_size=2"
    second = hydra_train(tmp_path, *options, "optimization.max_update=3", two_ranks)
    assert second.returncode == 0, second.stderr[-4000:]
    assert "Loaded checkpoint save/checkpoint_last.pt" in second.stdout
    state = torch.load(tmp_path / "save" / "checkpoint_last.pt", weights_only=False)
    assert state["optimizer_history"][-1]["num_updates"] == 3
    layers = {name.split(".layers.")[1][0] for name in state["model"] if ".layers." in name}
    assert layers == {"0", "1", "2"}
    assert not (tmp_path / "outputs").exists()


def test_wrong_type_is_told_by_hydra(tmp_path: Path) -> None:
    finished = hydra_train(tmp_path, *GROUPS, "task.data=nowhere", "task.mask_prob=much")
    assert finished.returncode == 1
    assert "Value 'much' of type 'str' could not be converted to Float" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_user_error_is_one_line(tmp_path: Path) -> None:
    finished = hydra_train(tmp_path, *GROUPS, "task.data=nowhere", *SMALL)
    assert_one_line_error(finished, "nowhere")


def test_value_that_a_yaml_file_gets_wrong_is_one_line(tmp_path: Path) -> None:
    """A section without its group is checked by fairseq's add_defaults, after Hydra."""
    (tmp_path / "mine.yaml").write_text(
        "task:\n  _name: masked_pretraining\n  data: nowhere\n  mask_prob: much\nhydra:\n  run:\n    dir: .\n"
    )
    finished = hydra_train(tmp_path, "--config-dir", tmp_path, "--config-name", "mine")
    assert_one_line_error(finished, "much", "mask_prob")


def test_a_recipe_called_as_fairseqs_own_is_the_users(small_data: Path, tmp_path: Path) -> None:
    """Its header says the hours, which the run repeats; the data are not there."""
    recipe = (ROOT / "configs/pretrain/mlm_tiny.yaml").read_text()
    (tmp_path / "config.yaml").write_text(recipe)
    options = [f"task.data={small_data}", *SMALL, "optimization.max_update=1", "dataset.disable_validation=true"]
    finished = hydra_train(tmp_path, "--config-dir", ".", "--config-name", "config", *options)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert "mlm with mlm_tiny" in finished.stdout and "the recipe says: 2 CPU cores" in finished.stdout


def test_a_user_dir_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert_one_line_error(
        hydra_train(tmp_path, *GROUPS, "common.user_dir=nowhere"), "common.user_dir", "no such folder"
    )


def test_other_hydra_programs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import sys, hydra\n"
        "@hydra.main(config_path=None, version_base='1.3')\n"
        "def main(cfg):\n"
        "    print('imported', sorted({'fairseq', 'torch', 'fairseq_masking'} & set(sys.modules)))\n"
        "main()\n"
    )
    finished = run_command(["python", "program.py"], cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "imported []" in finished.stdout


@pytest.mark.parametrize(
    ("config", "arguments", "says"),
    [
        ("pretrain/fully_explored_cs", ["task.data=x"], ("model.init_from", "or checkpoint.finetune_from_model=")),
        ("finetune/amos", ["task.data=x", "task.num_classes=2", "checkpoint.save_dir=s"], ("best_checkpoint_metric",)),
        ("mine", ["model.init_from=null"], ("fully_explored_cs.yaml leaves model.init_from open (???)",)),
        (
            "mine",
            ["model.init_from=nowhere", "dataset.batch_size=24"],
            ("nowhere",),
        ),  # now all is given, and the start looked for
    ],
)
def test_what_a_recipe_leaves_open_must_be_given(config, arguments, says, tmp_path: Path) -> None:
    """``mine`` is a user's recipe on ours, which gives the data."""
    shutil.copy(ROOT / "configs/pretrain/fully_explored_cs.yaml", tmp_path)
    mine = "defaults:\n  - fully_explored_cs\n  - _self_\ntask:\n  data: x\ncommon:\n  cpu: true\n  bf16: false\n"
    (tmp_path / "mine.yaml").write_text(mine)
    folder, _, name = config.rpartition("/")
    folder = ROOT / "configs" / folder if folder else tmp_path
    finished = hydra_train(tmp_path, "--config-dir", folder, "--config-name", name, *arguments)
    assert_one_line_error(finished, *says)
