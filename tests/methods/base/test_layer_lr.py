"""``--layer-lr-decay``: which parameter learns at which rate, through fused_adamw and its wrappers."""

import pytest
import torch
from commands import assert_one_line_error, run_fairseq_train
from omegaconf import OmegaConf
from small_batches import pretraining_task

from fairseq_masking.errors import UserError
from fairseq_masking.methods.base.layer_lr import check_optimizer
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.optim.fused_adamw import FusedAdamWConfig, FusedAdamWOptimizer

SHAPE = {
    "encoder_layers": 2,
    "encoder_embed_dim": 8,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "normalize_before": True,
    "relative_position": "t5",
}
EXPECTED = {  # decay 0.5, two layers: depth 3 has the whole rate
    "encoder.embed_tokens.": 0.125,
    "encoder.embed_positions.": 0.125,
    "encoder.layernorm_embedding.": 0.125,
    "encoder.relative_position.": 0.125,
    "encoder.layers.0.": 0.25,
    "encoder.layers.1.": 0.5,
    "encoder.layer_norm.": 1.0,
    "lm_head.": 1.0,
    "classification_heads.": 1.0,
}


def build(decay=0.5):
    model = MLMModel.build_model(MLMConfig(**SHAPE, layer_lr_decay=decay), pretraining_task())
    model.register_classification_head("topic", num_classes=3)
    return model


def optimizer(model, params=None):
    cfg = OmegaConf.merge(
        OmegaConf.structured(FusedAdamWConfig), {"lr": [1.0], "adam_eps": 1e-12, "weight_decay": 0.0}
    )
    return FusedAdamWOptimizer(cfg, list(params or model.parameters()))


def steps(model, lr=1e-3):
    """How far each parameter goes in Adam's first update, which is the rate itself."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    found = optimizer(model)
    found.set_lr(lr)
    found.step()
    assert found.get_lr() == pytest.approx(lr)
    return {name: (before[name] - parameter).abs().mean().item() for name, parameter in model.named_parameters()}


def test_each_layer_learns_at_its_own_rate():
    model = build()
    found = steps(model)
    for name, step in found.items():
        (share,) = [share for start, share in EXPECTED.items() if name.startswith(start)]
        assert step == pytest.approx(1e-3 * share, rel=1e-3), name
    assert all(any(name.startswith(start) for name in found) for start in EXPECTED)


def test_without_decay_all_learn_alike():
    assert all(step == pytest.approx(1e-3, rel=1e-3) for step in steps(build(1.0)).values())


def test_a_checkpoint_of_another_decay_is_not_resumed():
    state = optimizer(build(1.0)).state_dict()
    with pytest.raises(UserError, match="another --layer-lr-decay"):
        optimizer(build(0.5)).load_state_dict(state)


def test_a_checkpoint_of_fairseqs_adam_is_resumed():
    model = build(1.0)
    steps(model)
    state = optimizer(model).state_dict()
    for group in state["param_groups"]:
        del group["lr_scale"]
    resumed = optimizer(model)
    resumed.load_state_dict(state)
    resumed.set_lr(0.25)
    assert resumed.get_lr() == 0.25


GIVEN = ("--layer-lr-decay", "0.5", "--save-interval-updates", "1", "--max-update", "2")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--optimizer", "adam"), "needs --optimizer fused_adamw or muon, not adam"),
        (("--optimizer", "fused_adamw", "--ddp-backend", "fully_sharded"), "or use another --ddp-backend"),
    ],
)
def test_what_would_ignore_it_is_refused(options, expected, small_data, tmp_path):
    finished = run_fairseq_train(small_data, tmp_path, *GIVEN, *options)
    assert_one_line_error(finished, "--layer-lr-decay 0.5", expected)
    assert not list(tmp_path.glob("*.pt"))


def test_flat_fp16_is_refused():
    """Without a GPU the command ends before, as fp16 needs one."""
    cfg = OmegaConf.create(
        {
            "model": {"layer_lr_decay": 0.5},
            "optimizer": {"_name": "fused_adamw"},
            "common": {"fp16": True, "fp16_no_flatten_grads": False, "memory_efficient_fp16": False},
            "distributed_training": {"ddp_backend": "legacy_ddp"},
        }
    )
    with pytest.raises(UserError, match="--fp16-no-flatten-grads"):
        check_optimizer(cfg)
    cfg.common.fp16_no_flatten_grads = True
    check_optimizer(cfg)


def test_bf16_keeps_the_rates(small_data, tmp_path):
    """fairseq's fp32 masters are other parameters than the model's."""
    finished = run_fairseq_train(small_data, tmp_path, *GIVEN, "--optimizer", "fused_adamw", "--bf16")
    assert finished.returncode == 0, finished.stderr[-2000:]
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    groups = state["last_optimizer_state"]["param_groups"]
    assert sorted(group["lr_scale"] for group in groups) == [0.125, 0.25, 0.5, 1.0]
