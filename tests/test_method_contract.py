"""What every method keeps, in one table.

It logs, resumes to the bit, trains alike on two ranks, in bf16 and by its recipe, is used and exported.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from commands import (
    ROOT,
    Finished,
    assert_ok,
    logged_values,
    prepare_sentences,
    run_command,
    run_fairseq_train,
    weights,
)
from omegaconf import OmegaConf

from fairseq_masking import models
from fairseq_masking.checkpoints.hugging_face import export_checkpoint

DROPOUT = ("--dropout", "0.1", "--attention-dropout", "0.1")
RAGGED = ("--sample-break-mode", "eos", "--mask-splits", "2")
SHORTER = (
    "task.tokens_per_sample=32", "dataset.batch_size=4", "dataset.num_workers=0", "optimization.max_update=4",
    "lr_scheduler.warmup_updates=1", "common.log_interval=1", "checkpoint.save_dir=save",
)  # fmt: skip
RANDOM = {"loss_random", "ppl_random"}  # of short lines no token is replaced by a random one
MASKED = {"loss", "ppl", "accuracy", "loss_mask", "ppl_mask", *RANDOM}


class Method(NamedTuple):
    """A row of the table: options of ``fairseq-train``, and what the method adds to everyone's.

    Attributes:
        two_ranks: further options where two ranks are compared with one.
        parts: of the checkpoint's state.
        logged: fields of training and, where they are not ``only_training``, of validation.
        state: fields that show what the method keeps from update to update, to the digit on two ranks as well.
        trend: fields that rise (1) or fall (-1) from the first four updates to the last four.
        overrides: of the recipe.
        stored: what the checkpoint then holds of them.
        num_states: different states in twelve updates at least.
        two_states: the states, if they are known, of two ranks.
        bf16: further options in bf16.
        falls: fields below 0.8 of their first value at the end of that.
        tolerance: relative and absolute, of a weight after Adam's first updates on two ranks.
        head: what transformers loads the exported head by, "" where none is exported.
    """

    recipe: str
    model: str
    options: Sequence[str]
    two_ranks: Sequence[str]
    parts: set[str]
    logged: set[str]
    only_training: bool
    state: tuple[str, ...]
    trend: dict[str, int]
    overrides: Sequence[str]
    stored: dict[str, dict[str, object]]
    num_states: int = 2
    two_states: set[tuple[str, ...]] | None = None
    bf16: Sequence[str] = ("--max-update", "12")
    falls: Sequence[str] = ()
    tolerance: tuple[float, float] = (1e-5, 1e-6)
    head: str = "AutoModelForMaskedLM"

    def states(self, log: list[dict[str, str]]) -> list[tuple[str | None, ...]]:
        """Of each update."""
        return [tuple(line.get(field) for field in self.state) for line in log]


METHODS = {
    "mlm": Method(
        "mlm_tiny", "MLMModel",
        options=(),
        two_ranks=("--mask-unit", "subword"),
        parts={"encoder", "lm_head"},
        logged=MASKED, only_training=False, state=("ppl_random",), trend={},
        overrides=("task.mask_unit=whole_word", "model.activation_fn=relu"),
        stored={"model": {"activation_fn": "relu"}, "task": {"mask_unit": "whole_word"}},
    ),
    "fully_explored": Method(
        "fully_explored_tiny", "MLMModel",
        options=("--criterion", "fully_explored_mlm", "--mask-splits", "4"),
        two_ranks=(*RAGGED, "--ddp-backend", "pytorch_ddp"),
        parts={"encoder", "lm_head"},
        logged=MASKED, only_training=False, state=("var_within",), trend={},
        overrides=("task.mask_unit=span", "task.mask_splits=2"),
        stored={"task": {"mask_unit": "span", "mask_splits": 2}},
    ),
    "map_net": Method(
        "map_net_tiny", "MapNetModel",
        options=("--arch", "map_net_tiny", "--criterion", "map_net", "--explore-start", "0.9",
                 "--explore-end", "0.1", "--explore-updates", "8"),
        two_ranks=("--explore-unit", "batch", "--proposal-learn-from", "proposed",
                   "--explore-start", "0.5", "--explore-end", "0.5", "--max-update", "6"),
        parts={"encoder", "lm_head", "proposal"},
        logged={"encoder_loss", "proposal_loss", "loss_proposed", "loss_uniform", "share_proposed",
                "importance_weight", "clipped_low", "clipped_high", "proposal_entropy", "rank_correlation"},
        only_training=True, state=("share_proposed",), trend={"share_proposed": 1},
        overrides=("model.explore_updates=4", "model.explore_unit=batch", "criterion.importance_weight=exact",
                   "task.mask_unit=whole_word", "task.mask_splits=2"),
        stored={"model": {"explore_updates": 4, "proposal_layers": 2},
                "criterion": {"importance_weight": "exact"}},
        two_states={("0",), ("1",)},
        tolerance=(1e-4, 3e-6),
    ),
    "three_ml self": Method(
        "three_ml_tiny", "ThreeMLModel",
        options=("--arch", "three_ml_tiny", "--mask-prob", "0.4"),
        two_ranks=("--ddp-backend", "pytorch_ddp"),
        parts={"encoder", "decoder", "lm_head"},
        logged=MASKED | {"encoder_length", "flops_saved"}, only_training=False, state=("ppl_mask",), trend={},
        overrides=("task.mask_unit=span", "model.decoder_layers=1"),
        stored={"model": {"decoder_layers": 1, "decoder_attention": "self"}},
        head="",
    ),
    "three_ml cross, fully explored": Method(
        "three_ml_tiny", "ThreeMLModel",
        options=("--arch", "three_ml_tiny", "--decoder-attention", "cross", "--mask-prob", "0.4",
                 "--criterion", "fully_explored_mlm", *RAGGED),
        two_ranks=(),
        parts={"encoder", "decoder", "lm_head"},
        logged=MASKED | {"encoder_length", "flops_saved"}, only_training=False, state=("var_between",), trend={},
        overrides=("criterion=fully_explored_mlm", "model.decoder_attention=cross", "task.mask_splits=2"),
        stored={"model": {"decoder_attention": "cross"}, "task": {"mask_splits": 2}},
        head="",
    ),
    "amos": Method(
        "amos_tiny", "AmosModel",
        options=("--arch", "amos_tiny", "--criterion", "amos", "--leave-unmasked-prob", "0",
                 "--random-token-prob", "0", "--mixture", "random_layer"),
        two_ranks=(*RAGGED, "--mixture", "adversarial", "--ddp-backend", "pytorch_ddp"),
        parts={"encoder", "generator", "detection_head"},
        logged={"loss", "ppl", "accuracy", "objective", "replace_rate", "mlm_loss_1", "mlm_loss_2",
                "mlm_loss_3", "mixture_1", "mixture_2", "mixture_3", "disc_loss", "disc_accuracy",
                "disc_accuracy_replaced", "disc_accuracy_original", "disc_auc"},
        only_training=False, state=("mixture_1", "mixture_2", "replace_rate"),
        trend={"objective": -1, "disc_loss": -1},
        overrides=("model.generator_layers=[1,2]", "model.mixture=layer_switch",
                   "model.no_generator_stop_grad=true", "criterion.discriminator_weight=20"),
        stored={"model": {"generator_layers": [1, 2], "max_update": 4},
                "criterion": {"discriminator_weight": 20}},
        num_states=3,
        bf16=("--max-update", "20", "--mixture", "adversarial", "--adversarial-mlm-scale", "0.1"),
        falls=("objective", "disc_loss"),
        tolerance=(1e-4, 3e-5),
        head="AutoModelForPreTraining",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=METHODS.values(), ids=METHODS)
def method(request) -> Method:
    return request.param


def train(method: Method, data: Path, folder: Path, *options: str) -> list[dict[str, str]]:
    """Train; return what was logged, update by update."""
    shared = (*DROPOUT, "--batch-size", "8", "--log-format", "json")
    finished = run_fairseq_train(data, folder, *shared, *method.options, *options)
    assert_ok(finished)
    return logged_values(finished.stdout)


class Whole(NamedTuple):
    """Twelve updates without a stop, and what it kept after seven of them, within an epoch."""

    seventh: Path
    weights: dict[str, torch.Tensor]
    training: list[dict[str, str]]
    validation: dict[str, str]


@pytest.fixture(scope="module")
def whole(method, small_data, tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    logged = train(method, small_data, folder, "--max-update", "12", "--save-interval-updates", "7")
    _, validation = [line for line in logged if "valid_loss" in line]
    training = [line for line in logged if "loss" in line]
    return Whole(folder / "checkpoint_1_7.pt", weights(folder), training, validation)


def test_it_logs_what_it_is_about(method, whole):
    assert len(whole.training) == 12
    shared = MASKED if method.only_training else {"loss", "ppl", "accuracy"}
    assert set().union(*whole.training) >= {*method.logged, *method.state, *shared}
    validated = {key.removeprefix("valid_") for key in whole.validation}
    assert not validated & method.logged if method.only_training else validated >= method.logged - RANDOM
    for field, sign in method.trend.items():
        first, last = (sum(float(line[field]) for line in whole.training[part]) for part in (slice(4), slice(8, 12)))
        assert sign * (last - first) > 0, field
    if method.only_training:  # plain MLM in validation
        assert float(whole.validation["valid_loss"]) < float(whole.training[0]["loss"]), "it learns"


def test_a_resumed_run_is_the_whole_one_to_the_bit(method, whole, small_data, tmp_path):
    """Taken up within an epoch by other data workers: weights, and all that is logged afterwards."""
    whole.seventh.rename(tmp_path / "checkpoint_last.pt")
    logged = train(method, small_data, tmp_path, "--max-update", "12", "--num-workers", "2")
    resumed = weights(tmp_path)
    assert resumed.keys() == whole.weights.keys()
    assert {key.split(".")[0] for key in resumed} == method.parts
    assert all(torch.equal(resumed[key], whole.weights[key]) for key in resumed)
    measured = {*method.logged, *method.state, "gnorm"}
    after = [{key: line[key] for key in measured & line.keys()} for line in logged if "loss" in line]
    assert len(after) == 5
    assert after == [{key: line[key] for key in measured & line.keys()} for line in whole.training[7:]]
    assert len(set(method.states(whole.training))) >= method.num_states, "something that could be lost"


def test_two_ranks_give_the_weights_of_one_with_two_micro_batches(method, whole, small_data, tmp_path):
    """Under DDP, which wants a gradient for every parameter."""
    options = ("--max-update", "4", "--disable-validation", "--batch-size", "4", *method.two_ranks)
    saves = ("--save-interval-updates", "1")
    one_log = train(method, small_data, tmp_path / "one", *options, *saves, "--update-freq", "2")
    two_log = train(method, small_data, tmp_path / "two", *options, "--distributed-world-size", "2")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=method.tolerance[0], atol=method.tolerance[1])
    assert len(one_log) == len(two_log) >= 4
    for field in sorted({*method.logged, "gnorm"}):  # Adam would forgive a gradient twice as large
        alone, together = ([float(line.get(field) or 0) for line in log] for log in (one_log, two_log))
        close = {"rel": 1e-3} if field == "gnorm" else {"rel": 2e-3, "abs": 2e-3}
        assert together == pytest.approx(alone, **close), field
    assert method.states(one_log) == method.states(two_log)
    assert method.two_states is None or set(method.states(two_log)) == method.two_states
    first = torch.load(tmp_path / "one" / "checkpoint_1_1.pt", weights_only=True)["model"]
    for part in method.parts:
        moved = [(one[key] - first[key]).abs().max() for key in one if key.split(".")[0] == part]
        assert max(moved) > 1e-3, f"weights of {part} that barely move would agree by themselves"


def test_bf16_trains_as_fp32_does(method, whole, small_data, tmp_path):
    logged = train(method, small_data, tmp_path, "--bf16", "--disable-validation", *method.bf16)
    values = [float(value) for line in logged for value in line.values() if value is not None]
    assert all(map(math.isfinite, values))
    means = [sum(float(line["loss"]) for line in log[:12]) / 12 for log in (logged, whole.training)]
    assert len(logged) == int(method.bf16[1]) and means[0] == pytest.approx(means[1], abs=0.05)
    assert [field for field in method.falls if float(logged[-1][field]) >= 0.8 * float(logged[0][field])] == []
    assert all(torch.equal(value, value.bfloat16().float()) for value in weights(tmp_path).values()), "it was fp32"


def train_by_recipe(method: Method, folder: Path) -> Finished:
    data = prepare_sentences(folder)
    recipe = ("--config-dir", ROOT / "configs/pretrain", "--config-name", method.recipe)
    return run_command(["fairseq-hydra-train", *recipe, f"task.data={data}", *SHORTER, *method.overrides], cwd=folder)


def left_as_printed(method: Method) -> Iterator[tuple[str, str, object]]:
    """Section, name and value of what the recipe sets and nothing overrides."""
    overridden = {override.partition("=")[0] for override in (*SHORTER, *method.overrides)} | {"task.data"}
    printed = OmegaConf.to_container(OmegaConf.load(ROOT / f"configs/pretrain/{method.recipe}.yaml"))
    for section in printed.keys() - {"defaults", "hydra"}:
        for name, value in printed[section].items():
            if f"{section}.{name}" not in overridden:
                yield section, name, value


def test_its_recipe_trains_and_the_model_is_used_and_exported(method, tmp_path, transformers):
    finished = train_by_recipe(method, tmp_path)
    assert_ok(finished)
    assert len(re.findall(r"train_inner", finished.stdout)) == 4
    checkpoint = tmp_path / "save" / "checkpoint_last.pt"
    cfg = torch.load(checkpoint, weights_only=True)["cfg"]
    for section, values in method.stored.items():
        assert {name: cfg[section][name] for name in values} == values
    changed = [f"{section}.{name}" for section, name, value in left_as_printed(method) if cfg[section][name] != value]
    assert changed == []

    hub = getattr(models, method.model).from_pretrained(checkpoint.parent, checkpoint.name)
    assert len(hub.fill_mask("The <mask> sat on the mat.", topk=3)) == 3
    tokens = hub.encode("The old cat saw a dog.")
    features = hub.extract_features(tokens)
    assert features.shape == (1, len(tokens), 128)

    export_checkpoint(checkpoint, tmp_path / "exported")
    exported = transformers.AutoModel.from_pretrained(tmp_path / "exported", trust_remote_code=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    given = tokenizer("The old cat saw a dog.", return_tensors="pt")
    assert given["input_ids"][0].tolist() == tokens.tolist()
    with torch.no_grad():
        torch.testing.assert_close(exported(**given).last_hidden_state, features, rtol=1e-5, atol=1e-5)
        if method.head:
            loader = getattr(transformers, method.head)
            logits = loader.from_pretrained(tmp_path / "exported", trust_remote_code=True).eval()(**given).logits
            finds = getattr(hub.model, "detection_head", None)
            own = finds(features).squeeze(-1) if finds else hub.model(tokens[None])[0]
            torch.testing.assert_close(logits, own, rtol=1e-5, atol=1e-5)
