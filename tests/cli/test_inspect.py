"""A checkpoint says what it is, without being trained or loaded beside its data."""

import json
import shutil
from pathlib import Path

import pytest
from commands import run_verb

FROZEN = Path(__file__).parent.parent / "golden/data/checkpoints"


def told_of(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run_verb("inspect", "--checkpoint", checkpoint) == 0
    return capsys.readouterr().out


def test_a_pre_trained_and_a_fine_tuned_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Path(shutil.copy(FROZEN / "three_ml_self.pt", tmp_path))
    values = [{"valid_num_updates": str(update), "valid_loss": f"{9 - update}"} for update in (1, 2, 3)] + [
        {"num_updates": "1", "wps": "9"}
    ]
    (tmp_path / "train.log").write_text("".join(json.dumps(line) + "\n" for line in values))
    told = told_of(checkpoint, capsys)
    assert "--criterion mlm --arch three_ml_tiny --task masked_pretraining" in told
    assert "loss by update: 1: 8, 2: 7, 3: 6" in told and "no longer there: give --data" in told
    assert "model.encoder_layers 1" in told and "task.valid_mask_prob" not in told and "stop_time" not in told
    assert "finetune --checkpoint" in told and "--restore-file" in told and "--init-from" in told
    told = told_of(FROZEN / "sentences.pt", capsys)
    assert "MPNetForSequenceClassification" in told and "predict --checkpoint" in told and "finetune" not in told
