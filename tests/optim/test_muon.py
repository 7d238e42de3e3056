"""``--optimizer muon``: its numbers, which parameters it takes, options, half precision, resuming, ranks."""

import copy
import re
from typing import Any

import pytest
import torch
from commands import assert_ok, run_fairseq_train, weights
from fairseq import optim
from fairseq.models import ARCH_MODEL_REGISTRY
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from small_batches import pretraining_task
from test_fused_adamw import assert_same_weights, checkpoint, from_command_line, from_hydra, plain
from test_newton_schulz import by_the_formula
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.optim import AdamW
from fairseq_masking.optim.muon import MuonConfig, MuonOptimizer, check_whole_matrices, mark_matrices

ADAMW = {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
ADAMW_FLAGS = ("--adam-betas", "(0.8, 0.9)", "--adam-eps", "1e-6", "--weight-decay", "0.1", "--no-decay-bias-and-norm")
FLAGS = ("--optimizer", "muon", "--lr", "0.02", "--adamw-lr", "3e-3", *ADAMW_FLAGS)
LAYERS = r"layers\.\d+\.((self|cross)_attn\.(in|out|query|key_value)_proj|fc1|fc2)\.weight$"
ARCHITECTURES = [
    name
    for name, model in ARCH_MODEL_REGISTRY.items()
    if name.endswith("_tiny") and model.__module__.startswith("fairseq_masking")
]


def model_of(architecture: str) -> nn.Module:
    node = ConfigStore.instance().repo["model"][f"{architecture}.yaml"].node
    whole = OmegaConf.create({"model": node, "optimization": {"max_update": 9}, "common": {"seed": 1}})
    whole.model.encoder_embed_dim = 16
    model = ARCH_MODEL_REGISTRY[architecture].build_model(whole.model, pretraining_task())
    model.register_classification_head("sentences", num_classes=3)
    mark_matrices(model)
    return model


def muon(parameters: list[Tensor], **options: Any) -> MuonOptimizer:
    rates = {"lr": [0.02], "adamw_lr": 3e-3}
    adamw = {"adam_betas": (0.8, 0.9), "adam_eps": 1e-6, "weight_decay": 0.1, "no_decay_bias_and_norm": True}
    return MuonOptimizer(MuonConfig(**{**rates, **adamw, **options}), parameters)


def marked(parameter: Tensor, num_matrices: int) -> nn.Parameter:
    result = nn.Parameter(parameter)
    if num_matrices:
        result.optim_overrides = {"optimizer": {"num_matrices": num_matrices}}
    return result


def naive_step(
    weight: Tensor, buffer: Tensor, gradient: Tensor, num: int, lr: float, momentum: float, scale: str
) -> None:
    for part, own, each in zip(weight.chunk(num), buffer.chunk(num), gradient.chunk(num), strict=True):
        own.copy_(momentum * own + (1 - momentum) * each)
        direction = momentum * own + (1 - momentum) * each
        rows, columns = part.shape
        wide = by_the_formula(direction if rows <= columns else direction.T)
        factor = max(1, rows / columns) ** 0.5 if scale == "original" else 0.2 * max(rows, columns) ** 0.5
        part.mul_(1 - lr * 0.1).sub_(lr * factor * (wide if rows <= columns else wide.T))


SHAPES = [((12, 4), 3), ((4, 4), 1), ((8, 4), 2), ((16, 4), 1), ((4, 16), 1), ((7, 4), 0), ((4,), 0), ((6, 4), 1)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_its_numbers_are_the_formula_s(dtype, scale, device, monkeypatch):
    """Momentum, five steps, scale and decay by hand, one matrix after the other; all else is AdamW's to the bit."""
    monkeypatch.setattr(
        "fairseq_masking.optim.muon.precision", lambda parameter: torch.promote_types(dtype, torch.float32)
    )
    first = [torch.randn(shape, dtype=torch.float64).to(device, dtype) for shape, _ in SHAPES]
    ours = [marked(value.clone(), number) for value, (_, number) in zip(first, SHAPES, strict=True)]
    optimizer = muon(ours, adjust_lr_fn=scale, momentum=0.8)
    expected = [value.double() for value in first]
    buffers = [torch.zeros_like(value) for value in expected]
    rest = [nn.Parameter(value.clone()) for value, (_, number) in zip(first, SHAPES, strict=True) if not number]
    adamw = AdamW(rest, **ADAMW, decay_vectors=False)
    for update in range(4):
        lr = 0.02 / (1 + update)
        optimizer.set_lr(lr)
        assert optimizer.get_lr() == lr
        adamw.param_groups[0]["lr"] = lr * (3e-3 / 0.02)
        left = iter(rest)
        for parameter, weight, buffer, (shape, number) in zip(ours, expected, buffers, SHAPES, strict=True):
            gradient = torch.randn(shape, dtype=torch.float64).to(device, dtype)
            parameter.grad = gradient if shape != (6, 4) else None  # that one never gets any
            if not number:
                next(left).grad = gradient.clone()
            elif parameter.grad is not None:
                naive_step(weight, buffer, gradient.double(), number, lr, 0.8, scale)
        optimizer.step()
        adamw.step()
    error = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 3e-2}[dtype]
    for parameter, weight, (_, number) in zip(ours, expected, SHAPES, strict=True):
        if number:
            torch.testing.assert_close(parameter.detach().double(), weight, rtol=0, atol=error)
    for parameter, other in zip((p for p, (_, n) in zip(ours, SHAPES, strict=True) if not n), rest, strict=True):
        assert torch.equal(parameter, other)


def test_it_steps_as_torchs_muon_does(monkeypatch):
    """Of which it has the options; theirs iterates in bf16."""
    monkeypatch.setattr("fairseq_masking.optim.muon.precision", lambda parameter: torch.bfloat16)
    first = torch.randn(24, 8)
    ours, theirs = marked(first.clone(), 1), nn.Parameter(first.clone())
    optimizer, reference = muon([ours]), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1)
    optimizer.set_lr(0.02)
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(24, 8)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-4)
    assert (ours - first).abs().max() > 0.03


def test_many_matrices_are_taken_in_parts(monkeypatch):
    found = []
    for size in (1 << 24, 100):
        monkeypatch.setattr("fairseq_masking.optim.adamw._CHUNK_NUMEL", size)
        torch.manual_seed(1)
        parameters = [marked(torch.randn(8, 8), number) for number in (1, 2, 1, 1)]
        optimizer = muon(parameters)
        for parameter in parameters:
            parameter.grad = torch.randn(8, 8)
        optimizer.step()
        found.append(parameters)
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_matrices_are_muons_and_all_else_is_adamws(architecture):
    """Nothing is forgotten, nothing taken twice, no embedding, norm, bias, head or projection into the layers."""
    model = model_of(architecture)
    fused_of = {"in_proj.weight": 3, "key_value_proj.weight": 2, "fc1.weight": 2 if "modern" in architecture else 1}
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = muon(list(model.parameters())).param_groups
    assert sorted(names[p] for group in groups for p in group["params"]) == sorted(names.values())
    numbers = {names[p]: group["num_matrices"] for group in groups for p in group["params"]}
    for name, number in numbers.items():
        fused = fused_of.get(".".join(name.split(".")[-2:]), 1)
        assert number == (fused if re.search(LAYERS, name) else 0), name
    assert sum(number > 0 for number in numbers.values()) >= 8


def test_both_commands_read_it_alike():
    assert plain(from_command_line(optimizer="muon")) == plain(from_hydra(optimizer="muon"))
    typed = from_command_line(
        *FLAGS[2:], "--momentum", "0.9", "--ns-steps", "4", "--adjust-lr-fn", "match_rms_adamw", optimizer="muon"
    )
    keys = ["optimizer.adamw_lr=3e-3", "optimizer.momentum=0.9", "optimizer.ns_steps=4", "optimization.lr=[0.02]"]
    keys += ["optimizer.adjust_lr_fn=match_rms_adamw", "optimizer.adam_betas='(0.8, 0.9)'", "optimizer.adam_eps=1e-6"]
    keys += ["optimizer.weight_decay=0.1", "optimizer.no_decay_bias_and_norm=true"]
    composed = from_hydra(*keys, optimizer="muon")
    assert plain(typed) == plain(composed)
    for cfg in (typed, composed):
        built = optim.build_optimizer(cfg.optimizer, [marked(torch.zeros(2, 2), 1), marked(torch.zeros(2), 0)])
        assert isinstance(built, MuonOptimizer)
        assert built.param_groups[0]["ns_steps"] == 4 and built.param_groups[0]["momentum"] == 0.9
        assert built.param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"
        built.set_lr(0.01)
        assert [group["lr"] for group in built.param_groups] == [0.01, pytest.approx(1.5e-3)]


def test_one_rate_serves_both_where_updates_are_as_large_as_adamws():
    parameters = [marked(torch.zeros(2, 2), 1), marked(torch.zeros(2), 0)]
    built = muon(parameters, adjust_lr_fn="match_rms_adamw", adamw_lr=None)
    built.set_lr(0.05)
    assert [group["lr"] for group in built.param_groups] == [0.05, 0.05]


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"--lr 0\.0: give a rate above 0"):
        muon([marked(torch.zeros(2, 2), 1)], lr=[0.0])


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match="give --adamw-lr, such as 3e-3"):
        muon([marked(torch.zeros(2, 2), 1)], adamw_lr=None)
    with pytest.raises(UserError, match="--optimizer fused_adamw for others"):
        muon([nn.Parameter(torch.zeros(4, 4))])


@pytest.mark.parametrize("given", [("--fp16",), ("--ddp-backend", "fully_sharded")])
def test_parameters_in_pieces_are_refused(given):
    with pytest.raises(UserError, match=r"--optimizer muon needs whole matrices.*--fp16-no-flatten-grads"):
        check_whole_matrices(from_command_line(*given, optimizer="muon"))


def test_a_copy_goes_on_from_its_state_bit_by_bit():
    first = [torch.randn(shape) for shape, _ in SHAPES]
    trained = []
    for resumes in (False, True):
        torch.manual_seed(2)
        parameters = [marked(value.clone(), number) for value, (_, number) in zip(first, SHAPES, strict=True)]
        optimizer = muon(parameters)
        for update in range(4):
            if resumes and update == 2:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = muon(parameters)
                optimizer.load_state_dict(state)
            optimizer.set_lr(0.02 / (1 + update))
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape)
            optimizer.step()
        trained.append(parameters)
    assert all(torch.equal(one, other) for one, other in zip(*trained, strict=True))


WSD = ("--lr-scheduler", "wsd", "--warmup-updates", "2", "--decay-shape", "linear", "--clip-norm", "1")
DECAY = (*WSD, "--decay-updates", "3", "--max-update", "6")
REST = ("--dropout", "0.1", "--disable-validation", "--layer-lr-decay", "0.8", "--weight-decay", "0.1")


def test_a_run_without_an_end_is_decayed_from_its_checkpoint_bit_by_bit(small_data, tmp_path):
    """It resumes as if it had always known its end: state, rates of both kinds, layers' shares of them."""
    options = (*FLAGS, *REST, "--memory-efficient-bf16")
    whole, open_end = tmp_path / "whole", tmp_path / "open"
    assert_ok(run_fairseq_train(small_data, whole, *options, *DECAY))
    assert_ok(run_fairseq_train(small_data, open_end, *options, *WSD, "--max-update", "3"))
    finished = run_fairseq_train(small_data, open_end, *options, *DECAY)
    assert_ok(finished)
    assert "muon: 12 matrices, 393,216 values, orthogonalised in " in finished.stdout + finished.stderr
    ours, theirs = checkpoint(open_end), checkpoint(whole)
    assert_same_weights(ours, theirs)
    states = [each["last_optimizer_state"]["state"] for each in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][index][key]))
            assert key == "step" or value.dtype == torch.float32


def test_fp32_masters_of_bf16_keep_their_kind_and_rate(small_data, tmp_path):
    assert_ok(run_fairseq_train(small_data, tmp_path, *FLAGS, *REST, "--bf16"))
    state = checkpoint(tmp_path)["last_optimizer_state"]
    groups = {index: group for group in state["param_groups"] for index in group["params"]}
    taken = [groups[index] for index, kept in state["state"].items() if "momentum_buffer" in kept]
    assert sorted(group["num_matrices"] for group in taken) == [1] * 6 + [3] * 2
    assert sorted({group["lr_scale"] for group in taken}) == pytest.approx([0.64, 0.8])
    assert sum("exp_avg" in kept and not groups[index]["num_matrices"] for index, kept in state["state"].items()) == 25


def test_two_ranks_are_one(small_data, tmp_path):
    for name, *more in (("one", "--update-freq", "2"), ("two", "--distributed-world-size", "2")):
        assert_ok(run_fairseq_train(small_data, tmp_path / name, *FLAGS, *WSD, "--max-update", "4", *more))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, rtol=0, atol=1e-4, msg=key)
