"""Numbers that have gone wrong end a training before they replace a good checkpoint; no tool takes such weights."""

from argparse import Namespace

import pytest
import torch
from commands import run_verb, train_here, weights
from fairseq import checkpoint_utils

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.compat import numbers
from fairseq_masking.errors import UserError
from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingTask

EVERY = ("--save-interval-updates", "2", "--disable-validation", "--max-update", "8", "--log-interval", "100")


def last_line(capsys) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def spoilt(monkeypatch, name: str, *, gradient: bool, at: int) -> None:
    """Has a parameter, or its gradient, be NaN from the middle of an update on."""
    step = MaskedPretrainingTask.train_step

    def spoil(self, sample, model, criterion, optimizer, update_num, *rest, **options):
        weight = dict(model.named_parameters())[name]
        if not gradient and update_num + 1 == at:
            weight.data[0] = float("nan")
        result = step(self, sample, model, criterion, optimizer, update_num, *rest, **options)
        if gradient and update_num + 1 == at:
            weight.grad[0] = float("nan")
        return result

    monkeypatch.setattr(MaskedPretrainingTask, "train_step", spoil)


@pytest.mark.parametrize("what", ["weight", "gradient"])
def test_one_line_names_update_tensor_and_checkpoint(what, small_data, tmp_path, monkeypatch, capsys):
    name = "encoder.layers.1.fc1.weight"
    spoilt(monkeypatch, name, gradient=what == "gradient", at=4)
    assert train_here(small_data, tmp_path, *EVERY) == 1
    line = last_line(capsys)
    assert line.startswith("fairseq_masking: error: update 4: the gradients are not finite") and name in line
    assert str(tmp_path / "checkpoint_") in line and "--skip-nonfinite" in line
    assert read_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == 2
    assert not (tmp_path / "crash.pt").exists()


def test_an_update_can_be_left_out(small_data, tmp_path, monkeypatch, caplog, capsys):
    spoilt(monkeypatch, "encoder.layers.0.fc2.bias", gradient=True, at=4)
    assert train_here(small_data, tmp_path, *EVERY, "--skip-nonfinite", "3") == 1  # the planted one never ends
    assert [message.count("left out") for message in caplog.messages if "update 4" in message] == [1, 1, 1]
    assert [message.split()[-2:] for message in caplog.messages if "left out, " in message][2] == ["0", "more"]
    assert "update 4: " in last_line(capsys)
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_a_module_is_named(small_data, tmp_path, monkeypatch, capsys):
    from fairseq_masking.modules.encoder import TransformerEncoder

    forward = TransformerEncoder.forward

    def spoil(*args, **options):
        encoded = forward(*args, **options)
        return encoded._replace(hidden_BTD=encoded.hidden_BTD * float("inf"))

    monkeypatch.setattr(TransformerEncoder, "forward", spoil)
    assert train_here(small_data, tmp_path, *EVERY) == 1
    assert "first in what encoder gives; there is no checkpoint of before" in last_line(capsys)


def test_the_search_leaves_no_hooks():
    model = torch.nn.Linear(2, 2)
    with numbers._Where(model):
        assert model._forward_hooks
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("schedule", "first"),
    [({}, 1), ({"warmup_updates": 0}, 1), ({"warmup_updates": 3}, 4), ({"warmup_ratio": 0.1}, 11)],
)
def test_the_limit_holds_after_the_warmup(schedule, first):
    cfg = Namespace(lr_scheduler=Namespace(**schedule), optimization=Namespace(max_update=100))
    task = Namespace(pretrains=True, source_dictionary=range(256))
    limits = [
        numbers._limit(Namespace(cfg=cfg, task=task, get_num_updates=lambda number=number: number))
        for number in range(1, 13)
    ]
    assert limits == [None] * (first - 1) + [16.0] * (13 - first)


def test_a_diverged_model_replaces_no_good_one(small_data, tmp_path, capsys):
    assert train_here(small_data, tmp_path, *EVERY, "--max-update", "2") == 0
    before = weights(tmp_path)
    assert train_here(small_data, tmp_path, *EVERY, "--lr", "100") == 1
    line = last_line(capsys)
    assert "training has diverged" in line and "204 symbols (7.67)" in line and str(tmp_path / "checkpoint_") in line
    assert all(torch.equal(before[key], value) for key, value in weights(tmp_path).items())
    warming = ("--lr-scheduler", "polynomial_decay", "--warmup-updates", "8", "--total-num-update", "9")
    assert train_here(small_data, tmp_path / "warm", *EVERY, "--lr", "100", *warming) == 0


def test_weights_that_are_not_finite_are_refused(small_data, tmp_path, capsys, caplog):
    assert train_here(small_data, tmp_path, *EVERY, "--max-update", "3") == 0
    good, last = tmp_path / "checkpoint_1_2.pt", tmp_path / "checkpoint_last.pt"
    state = torch.load(last, weights_only=True)
    state["model"]["encoder.layers.1.fc1.bias"][3] = float("inf")
    torch.save(state, last)
    told = "encoder.layers.1.fc1.bias has values that are not finite"
    for verb in (["export", "--out", tmp_path / "out"], ["inspect"]):
        assert run_verb(*verb, "--checkpoint", last) == 1
        assert told in last_line(capsys), verb
    for use in (
        lambda: checkpoint_utils.load_model_ensemble_and_task([str(last)]),  # what fairseq-validate calls
        lambda: HubInterface.from_pretrained(last),
    ):
        with pytest.raises(UserError, match=told):
            use()
    assert train_here(small_data, tmp_path / "other", "--restore-file", last) == 1
    assert told in last_line(capsys)
    assert train_here(small_data, tmp_path, *EVERY, "--max-update", "4") == 0
    assert f"Training goes on from {good}" in caplog.text


def test_starting_over_needs_its_option_and_loses_nothing(small_data, tmp_path, monkeypatch, caplog):
    assert train_here(small_data, tmp_path, *EVERY, "--max-update", "3") == 0
    first = weights(tmp_path)
    assert train_here(small_data, tmp_path, *EVERY, "--max-update", "2", "--seed", "2", "--start-over") == 0
    (aside,) = tmp_path.glob("before-*")
    assert all(torch.equal(first[key], value) for key, value in weights(aside).items())
    assert read_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == 2 and str(aside) in caplog.text
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a requeued job has the same command line
    assert train_here(small_data, tmp_path, *EVERY, "--max-update", "3", "--seed", "2", "--start-over") == 0
    assert "Loaded checkpoint" in caplog.text and len(list(tmp_path.glob("before-*"))) == 1
