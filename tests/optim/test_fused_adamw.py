"""``--optimizer fused_adamw`` in fairseq: options, wrappers of half precision, training and resuming."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_ok, assert_one_line_error, kill_when, run_command, run_fairseq_train
from fairseq import optim, options
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

import fairseq_masking  # noqa: F401 - registers the optimizer
from fairseq_masking.compat.ranges import parse_betas
from fairseq_masking.errors import UserError
from fairseq_masking.optim.fused_adamw import FusedAdamWOptimizer

OPTIONS = ("--optimizer", "fused_adamw", "--weight-decay", "0.1", "--adam-eps", "1e-6", "--adam-betas", "(0.9, 0.98)")
SCHEDULE = ("--lr-scheduler", "polynomial_decay", "--warmup-updates", "2", "--total-num-update", "8")


def from_command_line(*more: str, optimizer: str = "fused_adamw") -> DictConfig:
    fixed = ["DATA", "--task", "masked_pretraining", "--arch", "mlm_tiny", "--optimizer", optimizer]
    args = options.parse_args_and_arch(options.get_training_parser(), [*fixed, *more])
    return convert_namespace_to_omegaconf(args)


def from_hydra(*more: str, optimizer: str = "fused_adamw") -> DictConfig:
    hydra_init("config")
    GlobalHydra.instance().clear()
    with initialize_config_module("fairseq.config", version_base="1.1"):
        cfg = compose("config", overrides=["task=masked_pretraining", f"optimizer={optimizer}", *more])
    add_defaults(cfg)
    return cfg


def plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg.optimizer, resolve=True)


def network() -> list[Tensor]:
    torch.manual_seed(0)
    return list(nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 1)).parameters())


def zero_gradients(parameters: list[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def test_options_mean_the_same_on_both_front_ends() -> None:
    assert plain(from_command_line()) == plain(from_hydra())
    flags = ("--adam-betas", "(0.8, 0.95)", "--adam-eps", "1e-7", "--weight-decay", "0.3", "--lr", "0.5")
    keys = ("optimizer.adam_betas='(0.8, 0.95)'", "optimizer.adam_eps=1e-7", "optimizer.weight_decay=0.3")
    ours = from_command_line(*flags, "--no-decay-bias-and-norm")
    theirs = from_hydra(*keys, "optimization.lr=[0.5]", "optimizer.no_decay_bias_and_norm=true")
    assert plain(ours) == plain(theirs)
    for cfg in (ours, theirs):
        optimizer = optim.build_optimizer(cfg.optimizer, network())
        assert isinstance(optimizer, FusedAdamWOptimizer)
        assert optimizer.optimizer_config == {
            "lr": 0.5, "betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": 0.3, "decay_vectors": False,
        }  # fmt: skip


def test_shared_options_are_read_as_fairseq_s_adam_reads_them() -> None:
    flags = ("--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6", "--weight-decay", "0.01", "--lr", "0.1")
    keys = ("optimizer.adam_betas=[0.9,0.98]", "optimizer.adam_eps=1e-6", "optimizer.weight_decay=0.01")
    for cfg, stock in (
        (from_command_line(*flags), from_command_line(*flags, optimizer="adam")),
        (from_hydra(*keys), from_hydra(*keys, optimizer="adam")),
        (from_command_line(), from_command_line(optimizer="adam")),
    ):
        shared = {key: value for key, value in plain(cfg).items() if key not in ("_name", "no_decay_bias_and_norm")}
        assert shared.items() <= plain(stock).items()
        ours = optim.build_optimizer(cfg.optimizer, network()).optimizer_config
        theirs = optim.build_optimizer(stock.optimizer, network()).optimizer_config
        assert {**theirs, "betas": tuple(theirs["betas"]), "decay_vectors": True} == ours


@pytest.mark.parametrize("value", ["(0.9, 0.98)", "0.9,0.98", "[0.9, 0.98]", [0.9, 0.98], (0.9, 0.98), " (0.9,0.98)"])
def test_betas(value: Any) -> None:
    assert parse_betas(value) == (0.9, 0.98)
    assert parse_betas(OmegaConf.create({"betas": [0.9, 0.98]}).betas) == (0.9, 0.98)
    assert parse_betas("(0, 0)") == (0.0, 0.0)


@pytest.mark.parametrize(
    "value",
    ["", "0.9", "(0.9,)", "(0.9, 0.98, 0.99)", "(0.9, 1)", "(0.9, 1.5)", "(-0.1, 0.9)", "high", "(0.9, nan)",
     "(True, 0.9)", "('0.9', 0.9)", "__import__('os').system('touch ran')", "{0.9: 1, 0.98: 2}", "(" * 500,
     None, 0.9],
)  # fmt: skip
def test_bad_betas_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match="--adam-betas"):
        parse_betas(value)
    assert not Path("ran").exists()


def test_bad_options_are_one_line(small_data: Path, tmp_path: Path) -> None:
    finished = run_fairseq_train(small_data, tmp_path, *OPTIONS, "--adam-betas", "(0.9, 2)")
    assert_one_line_error(finished, "--adam-betas (0.9, 2)", "below 1")
    keys = ["task=masked_pretraining", f"task.data={small_data}", "model=mlm_tiny", "criterion=mlm", "common.cpu=true"]
    keys += ["optimizer=fused_adamw", "lr_scheduler=fixed", "optimization.lr=[0.1]", "optimization.max_update=1"]
    keys += ["dataset.batch_size=4", "optimizer.adam_eps=0", "checkpoint.save_dir=save", "task.tokens_per_sample=32"]
    finished = run_command(["fairseq-hydra-train", *keys], cwd=tmp_path)
    assert_one_line_error(finished, "--adam-eps 0")


def test_bf16_master_weights_keep_their_shapes_so_exclusions_hold() -> None:
    cfg = from_command_line("--bf16", "--no-decay-bias-and-norm", "--weight-decay", "0.5", "--lr", "0.1")
    parameters = [nn.Parameter(parameter.detach().bfloat16()) for parameter in network()]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = optim.FP16Optimizer.build_optimizer(cfg, parameters)
    zero_gradients(parameters)
    optimizer._needs_sync = True
    optimizer.set_lr(0.1)
    optimizer.step()
    for old, new in zip(before, parameters, strict=True):
        factor = 0.95 if old.dim() > 1 else 1.0
        assert torch.equal(new.detach(), (old.float() * factor).bfloat16()), old.shape


def test_flattened_parameters_are_refused_only_with_exclusions() -> None:
    """What --fp16 does without --fp16-no-flatten-grads: one flat fp32 vector of the device."""
    flat = {0: nn.Parameter(torch.ones(100))}
    cfg = from_command_line("--no-decay-bias-and-norm")
    with pytest.raises(UserError, match="--fp16-no-flatten-grads"):
        optim.build_optimizer(cfg.optimizer, [flat])
    assert optim.build_optimizer(from_command_line().optimizer, [flat]).supports_flat_params


def test_nothing_is_excluded_by_default() -> None:
    optimizer = optim.build_optimizer(from_command_line("--weight-decay", "0.5").optimizer, network())
    before = [parameter.detach().clone() for parameter in optimizer.params]
    zero_gradients(list(optimizer.params))
    optimizer.set_lr(0.1)
    optimizer.step()
    for old, new in zip(before, optimizer.params, strict=True):
        torch.testing.assert_close(new.detach(), old * 0.95)


def test_clips_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = optim.build_optimizer(from_command_line().optimizer, network())
    for parameter in optimizer.params:
        parameter.grad = torch.ones_like(parameter)
    monkeypatch.setattr("fairseq.utils.clip_grad_norm_", None)
    count = sum(parameter.numel() for parameter in optimizer.params)
    assert optimizer.clip_grad_norm(0.5).item() == pytest.approx(count**0.5)
    for parameter in optimizer.params:
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 0.5 / count**0.5))


def test_other_options_than_the_checkpoint_s_are_told(caplog: pytest.LogCaptureFixture) -> None:
    saved = optim.build_optimizer(from_command_line("--weight-decay", "0.5").optimizer, network())
    resumed = optim.build_optimizer(from_command_line("--weight-decay", "0.1").optimizer, network())
    resumed.load_state_dict(saved.state_dict())
    assert "--weight-decay: weight_decay=0.5 goes on, not 0.1" in caplog.text
    caplog.clear()
    resumed.load_state_dict(saved.state_dict(), {"weight_decay": 0.1})
    assert not caplog.records


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


def assert_same_weights(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left["model"].keys() == right["model"].keys()
    assert all(torch.equal(left["model"][key], right["model"][key]) for key in left["model"])


def assert_same_checkpoint(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert_same_weights(left, right)
    ours, theirs = left["last_optimizer_state"], right["last_optimizer_state"]
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in ours["state"].items():
        other = theirs["state"][index]
        assert state["step"] == other["step"]
        for key in ("exp_avg", "exp_avg_sq"):
            assert state[key].dtype == torch.float32
            assert torch.equal(state[key], other[key])


def test_trains_as_adam_does(small_data: Path, tmp_path: Path) -> None:
    """Same data, same clipping and schedule, two micro-batches; on two ranks as well."""
    same = (*OPTIONS[2:], *SCHEDULE, "--max-update", "6", "--clip-norm", "0.5")
    for name, *more in (
        ("adam", "--optimizer", "adam", "--update-freq", "2"),
        ("fused_adamw", "--optimizer", "fused_adamw", "--update-freq", "2"),
        ("two", "--optimizer", "fused_adamw", "--distributed-world-size", "2"),
    ):
        assert_ok(run_fairseq_train(small_data, tmp_path / name, *same, *more))
    adam, ours, two = (checkpoint(tmp_path / name)["model"] for name in ("adam", "fused_adamw", "two"))
    for key, weight in adam.items():
        torch.testing.assert_close(ours[key], weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(two[key], weight, rtol=1e-5, atol=1e-5)
    moments = checkpoint(tmp_path / "fused_adamw")["last_optimizer_state"]["state"]
    assert {state["step"] for state in moments.values()} == {6}


HALF = (*OPTIONS, *SCHEDULE, "--no-decay-bias-and-norm", "--clip-norm", "1", "--dropout", "0.1")
HALF = (*HALF, "--disable-validation")


def test_killed_and_resumed_bit_by_bit(small_data: Path, tmp_path: Path) -> None:
    options = (*HALF, "--bf16", "--save-interval-updates", "1", "--keep-interval-updates", "1")
    options = (*options, "--max-update", "8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert_ok(run_fairseq_train(small_data, whole, *options))
    kill = kill_when((killed / "checkpoint_last.pt").exists)
    assert run_fairseq_train(small_data, killed, *options, started=kill).returncode == -signal.SIGKILL
    reached = checkpoint(killed)["optimizer_history"][-1]["num_updates"]
    assert 1 <= reached < 8
    finished = run_fairseq_train(small_data, killed, *options)
    assert_ok(finished)
    assert "Loaded checkpoint" in finished.stdout
    assert_same_checkpoint(checkpoint(killed), checkpoint(whole))


def test_memory_efficient_bf16_resumes_bit_by_bit(small_data: Path, tmp_path: Path) -> None:
    options = (*HALF, "--memory-efficient-bf16", "--max-update", "6")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert_ok(run_fairseq_train(small_data, whole, *options, "--save-interval-updates", "3"))
    resumed.mkdir()
    shutil.copy(whole / "checkpoint_1_3.pt", resumed / "checkpoint_last.pt")
    assert_ok(run_fairseq_train(small_data, resumed, *options))
    assert_same_checkpoint(checkpoint(resumed), checkpoint(whole))
