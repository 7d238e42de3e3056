"""``METHOD_modern_SIZE``: today's encoder under every method, trained, resumed, started from."""

import pytest
import torch
from commands import assert_ok, run_fairseq_train, weights
from fairseq.models import ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf
from small_batches import batch, pretraining_task

from fairseq_masking.checkpoints.sources import read_source
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.modules import ClassificationHead

METHODS = {
    "mlm": (),
    "map_net": ("--criterion", "map_net", "--explore-start", "0.5"),
    "three_ml": ("--decoder-attention", "cross", "--decoder-layers", "1"),
    "amos": ("--criterion", "amos", "--leave-unmasked-prob", "0", "--random-token-prob", "0",
             "--generator-layers", "1,2"),
}  # fmt: skip
# A window shorter than the rows, so that local layers differ; one explicit option wins over the arch's.
SHARED = ("--attention-window", "8", "--rope-theta", "1000", "--dropout", "0.1")


@pytest.mark.parametrize("method", METHODS)
def test_a_modern_encoder_trains_and_resumes_to_the_bit(method, small_data, tmp_path):
    options = ("--arch", f"{method}_modern_tiny", *SHARED, *METHODS[method], "--disable-validation")
    saving = ("--max-update", "4", "--save-interval-updates", "2")
    assert_ok(run_fairseq_train(small_data, tmp_path / "whole", *options, *saving))
    assert_ok(
        run_fairseq_train(
            small_data, tmp_path / "rest", *options, *saving, "--restore-file", tmp_path / "whole/checkpoint_1_2.pt"
        )
    )
    whole, rest = weights(tmp_path / "whole"), weights(tmp_path / "rest")
    assert all(torch.equal(whole[key], rest[key]) for key in whole.keys() | rest.keys())
    assert not [key for key in whole if "embed_positions" in key or key.endswith("in_proj.bias")]
    if method != "mlm":
        return
    source = read_source(tmp_path / "whole/checkpoint_last.pt")
    assert source.shape() | {"attention_window": 8, "rope_theta": 1000.0, "max_positions": 8192} == source.shape()
    started = ("--arch", "three_ml_tiny", "--init-from", tmp_path / "whole/checkpoint_last.pt", "--max-update", "1")
    finished = run_fairseq_train(small_data, tmp_path / "started", *started, "--lr", "0")
    assert_ok(finished)
    taken = weights(tmp_path / "started")
    assert all(torch.equal(taken[key], whole[key]) for key in whole if key.startswith("encoder."))


def test_the_table_gives_every_method_modernberts_sizes():
    base, large = SIZES["modern_base"], SIZES["modern_large"]
    shape = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")
    assert [getattr(base, name) for name in shape] == [22, 768, 1152, 12]
    assert [getattr(large, name) for name in shape] == [28, 1024, 2624, 16]
    assert ARCH_MODEL_REGISTRY.keys() >= {
        f"{method}_modern_{size}" for method in METHODS for size in ("base", "small")
    }
    for size in ("tiny", "small"):
        plain, modern = (_layers(name) for name in (size, f"modern_{size}"))
        assert modern == pytest.approx(plain, rel=0.01)


def _layers(size: str) -> int:
    cfg = OmegaConf.structured(MLMConfig(**vars(SIZES[size])))
    with torch.device("meta"):
        model = MLMModel(cfg, vocab_size=45, pad_index=1)
    return sum(parameter.numel() for parameter in model.encoder.layers.parameters())


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_head_with_a_norm_reads_a_state_or_the_mean_of_the_text(pooling):
    model = MLMModel.build_model(
        OmegaConf.structured(MLMConfig(**{**vars(SIZES["modern_tiny"]), "pooling": pooling, "max_positions": 32})),
        pretraining_task(),
    ).eval()
    model.register_classification_head("mood", num_classes=3)
    head = model.classification_heads["mood"]
    assert {name for name, _ in head.named_parameters()} == {
        "dense.weight", "layer_norm.weight", "out_proj.weight", "out_proj.bias",
    }  # fmt: skip
    text = batch("cpu", (9, 6))["net_input"]["src_tokens"]
    scores, _ = model(text, features_only=True, classification_head_name="mood")
    states, _ = model(text, features_only=True)
    pooled = states[:, 0] if pooling == "first" else torch.stack([states[0].mean(0), states[1, :6].mean(0)])
    expected = head.out_proj(head.layer_norm(torch.nn.functional.gelu(head.dense(pooled))))
    torch.testing.assert_close(scores, expected)
    plain = ClassificationHead(8, 8, 2, activation="tanh", dropout=0.0, pooling="mean")
    features = torch.randn(2, 4, 8)
    torch.testing.assert_close(plain(features), plain(features, torch.zeros(2, 4, dtype=torch.bool)))
