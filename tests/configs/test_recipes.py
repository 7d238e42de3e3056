"""Every recipe of configs/pretrain composes, is typed and valid, and is what its header says."""

import re

import composing
import pytest
import yaml
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from fairseq_masking.compat.recipes import refuse_open_keys
from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskingConfig
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.tasks.global_batch import divide

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq still works in the way of Hydra 1.0

DATA = "task.data=x"
FOLDER = composing.CONFIGS / "pretrain"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
EXPECTED = {
    "amos_base",
    "amos_base_plus_plus",
    "amos_tiny",
    "fully_explored_base",
    "fully_explored_cs",
    "fully_explored_news",
    "fully_explored_residues",
    "fully_explored_tiny",
    "map_net_base",
    "map_net_tiny",
    "mlm_base",
    "mlm_large",
    "mlm_large_efficient",
    "mlm_modern_base",
    "mlm_tiny",
    "three_ml_base_cross40",
    "three_ml_base_self40",
    "three_ml_base_self50",
    "three_ml_large_cross40",
    "three_ml_large_self40",
    "three_ml_large_self50",
    "three_ml_tiny",
}


@pytest.fixture(params=RECIPES)
def recipe(request):
    return request.param


def composed(name, *overrides):
    return composing.composed(FOLDER / f"{name}.yaml", *overrides)


def header(name):
    return composing.header(FOLDER / f"{name}.yaml")


def test_all_recipes_are_here():
    assert set(RECIPES) == EXPECTED


def test_what_the_file_says_is_what_comes_out(recipe):
    """Over the defaults of the groups' nodes, too."""
    cfg = composed(recipe)
    composing.assert_as_written(cfg, FOLDER / f"{recipe}.yaml")
    add_defaults(cfg)
    composing.assert_as_written(cfg, FOLDER / f"{recipe}.yaml")


def test_it_is_typed_and_the_masking_is_possible(recipe):
    cfg = composed(recipe)
    add_defaults(cfg)
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    task = plain["task"]
    MaskingConfig(mask_prob=task["mask_prob"], num_splits=task["mask_splits"], unit=task["mask_unit"])
    assert task["tokens_per_sample"] <= plain["model"]["max_positions"]
    schedule = plain["lr_scheduler"]
    end = schedule["max_update" if schedule["_name"] == "wsd" else "total_num_update"]
    assert end == plain["optimization"]["max_update"]
    assert plain["lr_scheduler"]["warmup_updates"] < plain["optimization"]["max_update"]
    assert plain["model"]["_name"] in ARCH_MODEL_NAME_REGISTRY
    assert MODEL_DATACLASS_REGISTRY[ARCH_MODEL_NAME_REGISTRY[plain["model"]["_name"]]]
    assert TASK_DATACLASS_REGISTRY[task["_name"]]
    size = re.search(r"(modern_)?[a-z]+$", plain["model"]["_name"])
    for key, value in vars(SIZES[size.group()]).items():
        assert plain["model"][key] == value
    splits = task["mask_splits"]
    assert (splits > 1) == (plain["criterion"]["_name"] == "fully_explored_mlm")
    assert plain["dataset"]["batch_size"] % splits == 0


def test_global_batch_is_the_headers(recipe):
    found = re.search(
        r"Global batch: (\d+) rows = batch_size (\d+) x update_freq (\d+) x (\d+) (?:GPU|process)", header(recipe)
    )
    rows, batch_size, update_freq, gpus = map(int, found.groups())
    cfg = composed(recipe)
    assert rows == batch_size * update_freq * gpus
    assert (cfg.dataset.batch_size, list(cfg.optimization.update_freq)) == (batch_size, [update_freq])
    assert cfg.task.global_batch == (None if recipe.endswith("_tiny") else rows)
    assert divide(rows, ranks=gpus, batch_size=batch_size, num_splits=cfg.task.mask_splits) == (
        batch_size,
        update_freq,
    )


def test_header_says_what_a_reader_needs(recipe):
    text = header(recipe)
    for part in ("Reproduces:", "Command:", "Global batch:", "Hardware:", "Expected:"):
        assert part in text
    assert re.search(rf"--config-name {recipe} \\\n#\s+task\.data=", text)
    assert re.search(r"from the paper|measured here", text)


def test_header_names_what_differs_from_the_paper(recipe):
    text, written = header(recipe), yaml.safe_load((FOLDER / f"{recipe}.yaml").read_text())
    if recipe.endswith(("_tiny", "_residues")) or recipe == "mlm_modern_base":
        return
    assert re.search(r"# Deviation:.*sample_break_mode none", text, re.DOTALL)
    assert recipe == "mlm_large" or "# Filled: " in text
    if splits := written["task"].get("mask_splits"):
        sequences = int(re.search(r"# Batch: .* sequences: task\.global_batch=(\d+)", text).group(1))
        assert sequences == splits * written["task"]["global_batch"]
    if "init_from" in (written["model"] or {}):
        assert "model.init_from=FacebookAI/roberta-base" in text and "--tokenizer-from" in text


def test_command_line_wins_over_the_recipe(recipe):
    # A recipe that sets options of its method has them checked by that method's groups alone.
    criterion, model = ("map_net", "map_net_small") if recipe == "map_net_tiny" else ("mlm", "mlm_small")
    model = "three_ml_small" if recipe.startswith("three_ml") else model
    groups = (f"criterion={criterion}", f"model={model}")
    cfg = composed(recipe, *groups, "task.mask_splits=1", "optimizer.adam_eps=1e-3")
    assert (cfg.criterion._name, cfg.task.mask_splits, cfg.model._name) == (criterion, 1, model)
    assert (cfg.model.encoder_layers, cfg.optimizer.adam_eps) == (6, 1e-3)


@pytest.mark.parametrize(
    "name", ["pretrain/fully_explored_cs", "pretrain/map_net_tiny", "pretrain/three_ml_base_self40", "finetune/amos"]
)
def test_a_recipe_on_ours_keeps_what_it_does_not_change(name, tmp_path):
    """Whether the child names a section or not; the command line wins over both."""
    parent = composing.CONFIGS / f"{name}.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"defaults: [{parent.stem}, _self_]\ndataset: {{num_workers: 3}}\nhydra:\n  searchpath:\n")
    mine.write_text(mine.read_text() + f"  - file://{parent.parent}\n")
    given = ["optimization.lr=[0.5]", "checkpoint.save_dir=x"]
    expected = composing.composed(parent, "dataset.num_workers=3", *given)
    found = composing.composed(mine, *given)
    assert found == expected
    assert OmegaConf.get_type(found, "dataset") is OmegaConf.get_type(expected, "dataset")


def test_what_the_last_file_leaves_open_is_open(tmp_path):
    """A child that leaves open what its parent gives has it asked for, one that gives what its parent leaves not."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"defaults: [fully_explored_cs, _self_]\nmodel:\n  init_from: x\noptimization:\n  max_update: ???\n"
        f"hydra:\n  searchpath: ['file://{FOLDER}']\n"
    )
    hydra_init("mine")
    with initialize_config_dir(config_dir=str(tmp_path), version_base="1.1"):
        refuse_open_keys(compose("mine", [DATA, "optimization.max_update=5"]), [DATA, "optimization.max_update=5"])
        with pytest.raises(UserError, match=re.escape(f"{mine} leaves optimization.max_update open")):
            refuse_open_keys(compose("mine", [DATA]), [DATA])


@pytest.mark.parametrize("override", ["task.mask_splitz=4", "task.mask_splits=four", "task.mask_unit=letter"])
def test_wrong_overrides_are_refused(override):
    with pytest.raises(ConfigCompositionException):
        composed("mlm_base", override)
