"""The mlm model: its loss against a computation by loops, learning, and use from Python."""

import copy

import pytest
import small_batches
import torch
import torch.nn.functional as F

from fairseq_masking.errors import UserError
from fairseq_masking.methods.base.masked_tokens import masked_token_logs
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel

TINY = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2}


def build(device, **options):
    torch.manual_seed(0)
    cfg = MLMConfig(**{"dropout": 0.0, "attention_dropout": 0.0, "max_positions": 32, **TINY, **options})
    return MLMModel.build_model(cfg, small_batches.pretraining_task()).to(device)


def batch(device, lengths=(20, 12, 3), num_splits=2):
    """Rows of several lengths; the last has too few tokens for two masks, so it is skipped."""
    return small_batches.batch(device, lengths, num_splits=num_splits, mask_prob=0.3)


@pytest.mark.parametrize("num_splits", [1, 2])
@pytest.mark.parametrize("options", [{}, {"normalize_before": True}, {"relative_position": "t5"}])
def test_losses_equal_a_loop_over_rows(num_splits, options, device):
    model, sample = build(device, **options).eval(), batch(device, num_splits=num_splits)
    output = model(**sample["net_input"])
    net_input = sample["net_input"]
    expected, predictions, by_kind, start = [], [], {0: [], 1: [], 2: []}, 0
    for row, (length, count) in enumerate(zip(net_input["src_lengths"], net_input["num_masked"], strict=True)):
        tokens = net_input["src_tokens"][row, :length].clone()
        width = net_input["src_tokens"].shape[1]
        columns = [int(position) - row * width for position in net_input["positions"][start : start + count]]
        for offset, column in enumerate(columns):
            tokens[column] = net_input["replacements"][start + offset]
        logits = model(tokens[None])[0][0]
        for offset, column in enumerate(columns):
            target = net_input["src_tokens"][row, column]
            expected.append(F.cross_entropy(logits[column], target))
            predictions.append(logits[column].argmax())
            by_kind[int(net_input["kinds"][start + offset])].append(expected[-1])
        start += count
    assert len(expected) == output.losses_N.numel() > 0
    torch.testing.assert_close(output.losses_N, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(output.predictions_N, torch.stack(predictions))
    logs = masked_token_logs(output, sample)
    assert float(logs["loss"]) == pytest.approx(float(sum(expected).detach()), rel=1e-5)
    for kind, name in enumerate(("mask", "random", "unchanged")):
        assert float(logs[f"num_{name}"]) == len(by_kind[kind])
        assert logs[f"loss_{name}"].item() == pytest.approx(
            float(sum(by_kind[kind], torch.zeros(())).detach()), rel=1e-5, abs=1e-5
        )
    assert logs["num_skipped"] == (1 if num_splits == 2 else 0)


def test_a_batch_without_any_mask_has_no_loss_and_no_gradient(device):
    model, sample = build(device), batch(device, lengths=(3, 3), num_splits=2)
    output = model(**sample["net_input"])
    assert output.losses_N.numel() == 0
    output.losses_N.sum().backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


def test_it_learns_a_batch_by_heart(device):
    model, sample = build(device).train(), batch(device, lengths=(20, 20, 20))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    history = []
    for _ in range(20):
        loss = model(**sample["net_input"]).losses_N.mean()
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[0] > 3.3 and history[-1] < 0.4 * history[0]


def test_every_parameter_gets_a_gradient(device):
    model, sample = build(device, relative_position="amos", normalize_before=True), batch(device)
    model(**sample["net_input"]).losses_N.sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_heads_of_a_checkpoint_are_kept_dropped_or_new(device):
    trained = build(device)
    trained.register_classification_head("topic", num_classes=3)
    plain = build(device)
    plain.load_state_dict(trained.state_dict())
    assert not plain.classification_heads
    other = build(device)
    other.register_classification_head("mood", num_classes=5)
    kept = other.classification_heads["mood"].out_proj.weight.clone()
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.classification_heads["mood"].out_proj.weight, kept)
    with pytest.raises(UserError, match="number of classes"):
        plain.register_classification_head("topic")


def test_a_copy_computes_with_its_own_weights(device):
    model, sample = build(device).eval(), batch(device)
    expected = model(**sample["net_input"]).losses_N
    vars(model)["predict"] = type(model).predict.__get__(model)  # as --compile full leaves it
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(duplicate(**sample["net_input"]).losses_N, expected)
