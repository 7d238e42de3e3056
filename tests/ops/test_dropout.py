"""The CPU's dropout: its law, its gradient, its reproducibility."""

import pytest
import torch

from fairseq_masking.ops import dropout
from fairseq_masking.ops.attention import keep_mask


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.9])
def test_rate_scale_and_mean(probability, device):
    torch.manual_seed(0)
    values = torch.ones(1_000_003, device=device)
    result = dropout(values, probability, training=True)
    rate = (result == 0).double().mean().item()
    deviation = (probability * (1 - probability) / values.numel()) ** 0.5
    assert abs(rate - probability) < 5 * deviation
    assert result.max().item() == pytest.approx(1 / (1 - probability), rel=1e-4)
    assert result.mean().item() == pytest.approx(1.0, abs=5 * deviation / (1 - probability))


def test_a_probability_of_one_leaves_a_rounding_of_it():
    mask, scale = keep_mask(torch.Size((1000, 1000)), 1.0)
    assert scale == 2**16 and abs(mask.sum().item() - 1e6 / 2**16) < 25


def test_the_four_lanes_of_a_draw_are_independent():
    torch.manual_seed(1)
    mask, _ = keep_mask(torch.Size((400_000, 4)), 0.3)
    dropped = (~mask).double()
    rates = dropped.mean(0)
    assert (rates - 0.3).abs().max() < 0.004
    joint = dropped.T @ dropped / len(dropped)
    off_diagonal = joint[~torch.eye(4, dtype=torch.bool)]
    assert (off_diagonal - 0.09).abs().max() < 0.003
    neighbours = (dropped[1:, 0] * dropped[:-1, 3]).mean()
    assert abs(neighbours - 0.09) < 0.003


def test_gradient_passes_where_the_value_does(device):
    values = torch.randn(50, 7, device=device, dtype=torch.float64, requires_grad=True)
    result = dropout(values, 0.4, training=True)
    upstream = torch.randn_like(values)
    result.backward(upstream)
    ratio = result.detach() / values.detach()
    torch.testing.assert_close(values.grad, upstream * ratio)


def test_off_is_the_identity_and_the_seed_decides(device):
    values = torch.randn(33, device=device)
    assert dropout(values, 0.5, training=False) is values
    assert dropout(values, 0.0, training=True) is values
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(values, 0.5, training=True))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
