"""``--zero-sharding os``: the same weights as without, checkpoints for any number of ranks."""

from argparse import Namespace

import pytest
import torch
import torch.distributed.optim
from commands import assert_ok, run_fairseq_train, weights

from fairseq_masking.optim import AdamW, sharded

MUON = ("--optimizer", "muon", "--lr", "0.02", "--adamw-lr", "1e-3")
OPTIMIZERS = {"fused_adamw": ("--optimizer", "fused_adamw"), "adam": ("--optimizer", "adam"), "muon": MUON}
SHARDED = ("--zero-sharding", "os", "--distributed-world-size", "2")
FLAGS = ("--disable-validation", "--weight-decay", "0.1", "--clip-norm", "1", "--lr-scheduler", "fixed")


def check_equal(ours, theirs, tolerance=0.0):
    assert ours.keys() == theirs.keys()
    for key, weight in theirs.items():
        torch.testing.assert_close(ours[key], weight, rtol=0, atol=tolerance, msg=key)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_ranks_that_share_the_state_are_two_that_do_not(small_data, tmp_path, name):
    for folder, *more in (("whole", "--distributed-world-size", "2"), ("shared", *SHARDED)):
        options = (*OPTIMIZERS[name], *FLAGS, "--max-update", "3", *more)
        assert_ok(run_fairseq_train(small_data, tmp_path / folder, *options))
    check_equal(weights(tmp_path / "shared"), weights(tmp_path / "whole"), tolerance=1e-5 if name == "muon" else 0.0)
    states = [torch.load(tmp_path / folder / "checkpoint_last.pt", weights_only=False)["last_optimizer_state"]
              for folder in ("shared", "whole")]  # fmt: skip
    assert states[0]["state"].keys() == states[1]["state"].keys()
    assert [group["params"] for group in states[0]["param_groups"]] == [
        group["params"] for group in states[1]["param_groups"]
    ]


def test_a_sharded_run_goes_on_alone_and_back(small_data, tmp_path):
    """3 updates on two ranks that share, 2 on one that has all, 2 on two again: as 7 on one."""
    alone = (*FLAGS, "--update-freq", "2")
    for updates, more in (("3", SHARDED), ("5", alone), ("7", SHARDED)):
        assert_ok(run_fairseq_train(small_data, tmp_path / "mixed", *OPTIMIZERS["fused_adamw"], *FLAGS, *more,
                                    "--max-update", updates))  # fmt: skip
    assert_ok(run_fairseq_train(small_data, tmp_path / "one", *OPTIMIZERS["fused_adamw"], *alone, "--max-update", "7"))
    check_equal(weights(tmp_path / "mixed"), weights(tmp_path / "one"), tolerance=2e-5)


def test_masters_of_bf16_are_shared(small_data, tmp_path):
    options = ("--optimizer", "fused_adamw", "--bf16", *FLAGS, "--max-update", "2")
    for folder, more in (("whole", ("--distributed-world-size", "2")), ("shared", SHARDED)):
        assert_ok(run_fairseq_train(small_data, tmp_path / folder, *options, *more))
    check_equal(weights(tmp_path / "shared"), weights(tmp_path / "whole"))


def test_it_says_of_itself_what_the_whole_optimizer_does(monkeypatch):
    monkeypatch.setattr(torch.distributed.optim, "ZeroRedundancyOptimizer", lambda *_, **__: Namespace())
    wrapped = Namespace(optimizer=AdamW([torch.nn.Parameter(torch.zeros(1))]))
    sharded._shard(None, wrapped, None)
    assert wrapped.optimizer.supports_memory_efficient_fp16 and not wrapped.optimizer.supports_flat_params
