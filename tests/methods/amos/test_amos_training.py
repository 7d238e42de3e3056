"""AMOS through the commands, beside what ``test_method_contract`` has of it: its schedule of depths."""

import re

import torch
from commands import ROOT, assert_ok, assert_one_line_error, prepare_sentences, run_command, run_fairseq_train

from fairseq_masking.methods.amos.model import AmosModel

AMOS = ("--arch", "amos_tiny", "--criterion", "amos", "--leave-unmasked-prob", "0", "--random-token-prob", "0")


def test_depths_switch_by_the_updates_of_the_recipe(tmp_path):
    data = prepare_sentences(tmp_path)
    finished = run_command(
        ["fairseq-hydra-train", "--config-dir", ROOT / "configs/pretrain", "--config-name", "amos_tiny",
         f"task.data={data}", "task.tokens_per_sample=32", "dataset.batch_size=4",
         "dataset.num_workers=0", "optimization.max_update=4", "lr_scheduler.warmup_updates=1",
         "model.generator_layers=[1,2]", "model.mixture=layer_switch", "model.no_generator_stop_grad=true",
         "task.mask_unit=whole_word", "common.log_interval=1",
         "checkpoint.save_dir=save"],
        cwd=tmp_path,
    )  # fmt: skip
    assert_ok(finished)
    # max_update reaches the model: the depth changes half-way
    mixtures = re.findall(r'"mixture_1": "([^"]*)", "mixture_2": "([^"]*)"', (tmp_path / "save/train.log").read_text())
    assert mixtures == [("1", "0"), ("1", "0"), ("0", "1"), ("0", "1")]
    state = torch.load(tmp_path / "save" / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["model"]["generator_layers"] == [1, 2] and state["cfg"]["model"]["max_update"] == 4

    hub = AmosModel.from_pretrained(tmp_path / "save", "checkpoint_last.pt")
    assert hub.model.depths == (1, 2)
    (weights_of_its_update,) = hub.model.mixture_weights(torch.zeros(2, 1, 128), 0).tolist()
    assert weights_of_its_update == [0, 1]


def test_bad_depths_are_one_clear_line(small_data, tmp_path):
    finished = run_fairseq_train(small_data, tmp_path, *AMOS, "--generator-layers", "3,2")
    assert_one_line_error(finished, "--generator-layers 3,2", "in ascending order")
