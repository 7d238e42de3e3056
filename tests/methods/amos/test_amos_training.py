"""AMOS through the commands: trains, resumes bit-exactly, on one rank or two, in bf16, and fine-tunes."""

import math
import re
from pathlib import Path

import pytest
import torch
from commands import (
    ROOT,
    assert_ok,
    assert_one_line_error,
    logged_values,
    prepare_sentences,
    run_command,
    run_fairseq_train,
    weights,
)

from fairseq_masking.methods.amos.model import AmosModel

AMOS = (
    "--arch",
    "amos_tiny",
    "--criterion",
    "amos",
    "--leave-unmasked-prob",
    "0",
    "--random-token-prob",
    "0",
)
DROPOUT = ("--dropout", "0.1", "--attention-dropout", "0.1")
LOGGED = {
    "loss", "ppl", "accuracy", "objective", "replace_rate", "mlm_loss_1", "mlm_loss_2", "mlm_loss_3",
    "mixture_1", "mixture_2", "mixture_3", "disc_loss", "disc_accuracy", "disc_accuracy_replaced",
    "disc_accuracy_original", "disc_auc",
}  # fmt: skip


def train(data, folder, *options):
    finished = run_fairseq_train(data, folder, *AMOS, *DROPOUT, "--log-format", "json", *options)
    assert_ok(finished)
    return finished.stdout


@pytest.fixture(scope="module")
def whole(small_data, tmp_path_factory) -> Path:
    """Twelve updates of eight sentences, a depth drawn for each, without a stop."""
    folder = tmp_path_factory.mktemp("amos")
    options = ("--mixture", "random_layer", "--max-update", "12", "--batch-size", "8")
    (folder / "stdout").write_text(train(small_data, folder, *options))
    return folder


def test_everything_is_logged(whole):
    logged = logged_values((whole / "stdout").read_text())
    training = [line for line in logged if "loss" in line]
    (validation,) = [line for line in logged if "valid_loss" in line]
    assert len(training) == 12 and set(training[0]) >= LOGGED
    assert {key.removeprefix("valid_") for key in validation} >= LOGGED
    assert float(training[-1]["objective"]) < float(training[0]["objective"]), "it learns"


def test_resume_is_bit_exact_and_the_depths_go_on(whole, small_data, tmp_path):
    options = ("--mixture", "random_layer", "--batch-size", "8")
    train(small_data, tmp_path, *options, "--max-update", "7")
    stdout = train(small_data, tmp_path, *options, "--max-update", "12", "--num-workers", "2")
    resumed, uninterrupted = weights(tmp_path), weights(whole)
    assert resumed.keys() == uninterrupted.keys()
    assert {key.split(".")[0] for key in resumed} == {"encoder", "generator", "detection_head"}
    assert all(torch.equal(resumed[key], uninterrupted[key]) for key in resumed)
    depths = [[(line["mixture_1"], line["mixture_2"]) for line in logged_values(text) if "mixture_1" in line]
              for text in (stdout, (whole / "stdout").read_text())]  # fmt: skip
    assert len(depths[0]) == 5 and depths[0] == depths[1][7:]
    assert len(set(depths[1])) == 3, "each depth is drawn once at least"


def test_two_ranks_give_the_weights_of_one_with_two_micro_batches(small_data, tmp_path):
    """Noise by the batch, under DDP, which wants a gradient for every parameter; on ragged lines."""
    options = [
        "--max-update",
        "4",
        "--sample-break-mode",
        "eos",
        "--mask-splits",
        "2",
        "--disable-validation",
    ]
    one_log = train(small_data, tmp_path / "one", *options, "--update-freq", "2")
    two_log = train(small_data, tmp_path / "two", *options, "--distributed-world-size", "2",
                    "--ddp-backend", "pytorch_ddp")  # fmt: skip
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=3e-5)
    logged = [
        [(line["replace_rate"], line["mixture_1"]) for line in logged_values(log)]
        for log in (one_log, two_log)
    ]
    assert logged[0] == logged[1] and len(logged[0]) == 4
    norms = [[float(line["gnorm"]) for line in logged_values(log)] for log in (one_log, two_log)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3), "Adam would forgive a gradient twice as large"
    moved = (one["mixture.score.weight"]).abs().max().item()
    assert moved > 1e-2, "weights that barely move would agree by themselves"


def test_bf16_trains_20_updates(small_data, tmp_path):
    options = ("--bf16", "--max-update", "20", "--batch-size", "8", "--adversarial-mlm-scale", "0.1")
    logged = [line for line in logged_values(train(small_data, tmp_path, *options)) if "objective" in line]
    assert len(logged) == 20 and all(
        math.isfinite(float(value)) for line in logged for value in line.values()
    )
    for key in ("objective", "disc_loss"):
        assert float(logged[-1][key]) < 0.8 * float(logged[0][key]), key


def test_hydra_trains_it_by_recipe_and_python_uses_it(tmp_path):
    data = prepare_sentences(tmp_path)
    finished = run_command(
        ["fairseq-hydra-train", "--config-dir", ROOT / "configs/pretrain", "--config-name", "amos_tiny",
         f"task.data={data}", "task.tokens_per_sample=32", "dataset.batch_size=4",
         "dataset.num_workers=0", "optimization.max_update=4", "lr_scheduler.warmup_updates=1",
         "model.generator_layers=[1,2]", "model.mixture=layer_switch", "model.no_generator_stop_grad=true",
         "criterion.discriminator_weight=20", "task.mask_unit=whole_word", "common.log_interval=1",
         "checkpoint.save_dir=save"],
        cwd=tmp_path,
    )  # fmt: skip
    assert_ok(finished)
    # log_format is json, and max_update reaches the model: the depth changes half-way
    mixtures = re.findall(r'"mixture_1": "([^"]*)", "mixture_2": "([^"]*)"', finished.stdout)
    assert mixtures == [("1", "0"), ("1", "0"), ("0", "1"), ("0", "1")]
    state = torch.load(tmp_path / "save" / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["model"]["generator_layers"] == [1, 2] and state["cfg"]["model"]["max_update"] == 4
    assert state["cfg"]["criterion"]["discriminator_weight"] == 20

    hub = AmosModel.from_pretrained(tmp_path / "save", "checkpoint_last.pt")
    assert hub.model.depths == (1, 2)
    (weights_of_its_update,) = hub.model.mixture_weights(torch.zeros(2, 1, 128), 0).tolist()
    assert weights_of_its_update == [0, 1]
    assert len(hub.fill_mask("The <mask> sat on the mat.", topk=3)) == 3
    tokens = hub.encode("The old cat saw a dog.")
    assert hub.extract_features(tokens).shape == (1, len(tokens), 128)


def test_bad_depths_are_one_clear_line(small_data, tmp_path):
    finished = run_fairseq_train(small_data, tmp_path, *AMOS, "--generator-layers", "3,2")
    assert_one_line_error(finished, "--generator-layers 3,2", "in ascending order")
