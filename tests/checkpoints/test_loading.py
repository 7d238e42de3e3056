"""What stands beside a checkpoint's weights, whoever wrote it, and what is no checkpoint."""

from argparse import Namespace

import pytest
import torch

from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.errors import UserError

MODEL, TASK = {"encoder_layers": 2, "dropout": None}, {"_name": "masked_pretraining", "data": "a:b"}


def write(path, **state):
    torch.save({"model": {"weight": torch.ones(2)}, **state}, path)
    return path


def test_a_file_or_the_folder_with_it(tmp_path):
    history = [{"num_updates": 1}, {"num_updates": 7}]
    path = write(tmp_path / "checkpoint_best.pt", cfg={"model": MODEL, "task": TASK}, optimizer_history=history)
    for checkpoint in (read_checkpoint(path), read_checkpoint(tmp_path)):
        assert checkpoint.path == path and checkpoint.num_updates == 7 and str(checkpoint.data) == "a"
        assert checkpoint.options == {"encoder_layers": 2, "data": "a:b", "task": "masked_pretraining"}
        assert checkpoint.cfg.task._name == "masked_pretraining"
    assert read_checkpoint(tmp_path, "checkpoint_best.pt").state["model"]["weight"].tolist() == [1, 1]
    with pytest.raises(UserError, match=r"no such checkpoint: .*checkpoint_last\.pt"):
        read_checkpoint(tmp_path, "checkpoint_last.pt")


def test_an_old_one_has_args(tmp_path):
    args = Namespace(encoder_layers=2, dropout=None, data="a:b", task="masked_lm")
    old = read_checkpoint(write(tmp_path / "old.pt", cfg=None, args=args))
    assert old.options == {"encoder_layers": 2, "data": "a:b", "task": "masked_lm"}
    assert old.num_updates == 0 and str(old.data) == "a"


def test_what_is_none(tmp_path):
    bare = read_checkpoint(write(tmp_path / "bare.pt"))
    assert bare.options == {} and bare.data is None
    with pytest.raises(UserError, match=r"bare\.pt: .*not a checkpoint of fairseq_masking"):
        bare.build()
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no checkpoint"):
        read_checkpoint(tmp_path / "list.pt")
