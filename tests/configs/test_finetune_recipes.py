"""Every recipe of configs/finetune composes, is typed, is what its header says and has its paper's values."""

import pytest
import yaml
from composing import CONFIGS, assert_as_written, composed, header
from fairseq.dataclass.initialize import add_defaults
from omegaconf import OmegaConf

from fairseq_masking.finetuning.runs import grid_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq still works in the way of Hydra 1.0

RECIPES = sorted((CONFIGS / "finetune").glob("*.yaml"))
PAPERS = {  # weight decay, longest training in epochs, highest rate
    "amos": (0.01, 10, 5e-5),
    "amos_squad": (0.01, 3, 5e-5),
    "fully_explored": (0.1, 10, 3e-5),
    "fully_explored_domain": (0.1, 10, 2e-5),
    "map_net": (0.1, 10, 8e-5),
    "three_ml": (0.1, 10, 8e-5),
    "three_ml_large_tasks": (0.1, 5, 8e-5),
    "tiny": (0.01, 3, 1e-3),
    "tiny_squad": (0.01, 1, 3e-4),
}


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def recipe(request):
    return request.param


def needed(recipe):
    """What a recipe cannot know."""
    squad = "squad" in recipe.stem
    return [
        "checkpoint.save_dir=/nowhere/save",
        *([] if squad else ["task.num_classes=2", "checkpoint.best_checkpoint_metric=mcc"]),
    ]


def test_what_the_file_says_is_what_comes_out(recipe):
    assert_as_written(composed(recipe, *needed(recipe)), recipe)


def test_nothing_else_is_missing(recipe):
    cfg = composed(recipe, *needed(recipe))
    add_defaults(cfg)
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True, throw_on_missing=True)
    assert plain["lr_scheduler"]["max_epoch"] == plain["optimization"]["max_epoch"]
    assert plain["dataset"]["required_batch_size_multiple"] == 1


def test_every_configuration_of_the_grid_composes(recipe):
    values = [composed(recipe, *needed(recipe), *cell) for cell in grid_of(recipe)[:: max(1, 24 // 4)]]
    assert values


def test_the_papers_values(recipe):
    found = [composed(recipe, *needed(recipe), *cell) for cell in (grid_of(recipe)[0], grid_of(recipe)[-1])]
    longest = max(cfg.optimization.max_epoch for cfg in found)
    highest = max(cfg.optimization.lr[0] for cfg in found)
    assert (found[0].optimizer.weight_decay, longest, highest) == PAPERS[recipe.stem]
    assert tuple(found[0].optimizer.adam_betas) == (0.9, 0.98) and found[0].optimizer.adam_eps == 1e-6
    warmups = sorted({cfg.lr_scheduler.warmup_ratio for cfg in found})
    assert warmups == ([0.06, 0.1] if recipe.stem.startswith("amos") else [0.06])
    assert found[0].model.pooler_dropout == 0.1


def test_the_header_says_what_a_reader_needs(recipe):
    text = header(recipe)
    for part in ("Reproduces:", "Command:", "Grid:", "Hardware:", "Expected:"):
        assert part in text
    assert f"--config-name {recipe.stem} " in text.replace("\n#               ", " ")
    written = yaml.safe_load(recipe.read_text())["hydra"]
    assert written["run"]["dir"] == "${checkpoint.save_dir}"
