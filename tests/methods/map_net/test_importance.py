"""Importance weights: the paper's ratio by its formula, the exact one by enumerating all ordered draws."""

import math
from itertools import permutations

import pytest
import torch

from fairseq_masking.methods.map_net.ragged import RaggedRows
from fairseq_masking.methods.map_net.sampling import clip_log_weight, log_weight_exact, log_weight_paper

PROBABILITIES = [0.4, 0.25, 0.2, 0.1, 0.05]


def every_draw(k, device, dtype=torch.float64):
    """All ordered draws of k of 5 positions, one a row; column 0 and 6 of 7 can never be drawn."""
    draws = torch.tensor(list(permutations(range(1, 6), k)), device=device)
    log_p = torch.full((len(draws), 7), -torch.inf, dtype=dtype, device=device)
    log_p[:, 1:6] = torch.tensor(PROBABILITIES, dtype=dtype, device=device).log()
    counts = torch.full((len(draws),), k, device=device)
    layout = RaggedRows.of(counts, num_values=draws.numel(), width=k)
    flat = (torch.arange(len(draws), device=device)[:, None] * 7 + draws).flatten()
    probability = []
    for draw in draws.tolist():
        product, left = 1.0, 1.0
        for column in draw:
            product *= PROBABILITIES[column - 1] / left
            left -= PROBABILITIES[column - 1]
        probability.append(product)
    return draws, log_p, layout, flat, torch.tensor(probability, dtype=dtype, device=device)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_exact_weight_is_unbiased(k, device):
    """E_proposal[r f] is the uniform mean, for any f of the ordered draw; 5 of 5 leaves nothing undrawn."""
    draws, log_p, layout, flat, probability = every_draw(k, device)
    weight = log_weight_exact(log_p, flat, layout).exp()
    torch.testing.assert_close(probability.sum().item(), 1.0)
    torch.testing.assert_close((probability * weight).sum().item(), 1.0)
    torch.manual_seed(0)
    values = torch.randn(len(draws), dtype=torch.float64).to(device)
    torch.testing.assert_close((probability * weight * values).sum(), values.mean())
    # r is the ratio of the two laws, draw by draw
    torch.testing.assert_close(weight, (1.0 / len(draws)) / probability)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_paper_weight_is_its_formula(k, device):
    draws, log_p, layout, flat, _ = every_draw(k, device)
    expected = [(1 / 5) ** k / math.prod(PROBABILITIES[c - 1] for c in draw) for draw in draws.tolist()]
    weight = log_weight_paper(log_p, flat, layout).exp()
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=torch.float64, device=device))


def test_one_draw_has_one_weight_by_either_rule(device):
    _, log_p, layout, flat, _ = every_draw(1, device)
    torch.testing.assert_close(log_weight_paper(log_p, flat, layout), log_weight_exact(log_p, flat, layout))


@pytest.mark.parametrize("weight", [log_weight_paper, log_weight_exact])
def test_a_uniform_proposal_weighs_one_in_ragged_rows(weight, device):
    log_p = torch.full((4, 6), -torch.inf, device=device)
    for row, maskable in enumerate((6, 4, 0, 1)):
        log_p[row, :maskable] = -math.log(max(maskable, 1))
    counts = torch.tensor([3, 4, 0, 1], device=device)
    layout = RaggedRows.of(counts, num_values=8, width=4)
    drawn = torch.tensor([5, 0, 2, 6, 9, 8, 7, 18], device=device)
    result = weight(log_p, drawn, layout)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.zeros(4, device=device), rtol=0, atol=1e-5)


def test_exact_weight_keeps_its_digits_for_a_peaked_proposal(device):
    """After the first draw 1 - p is 1e-9 of fp32's one: what is left has to be summed, not subtracted."""
    log_p = torch.tensor([[0.0, -21.0, -22.0, -22.5, -23.0]], dtype=torch.float64).log_softmax(1)
    layout = RaggedRows.of(torch.tensor([4]), num_values=4, width=4)
    drawn = torch.tensor([0, 2, 1, 4])
    exact = log_weight_exact(log_p, drawn, layout)
    single = log_weight_exact(
        log_p.float().to(device), drawn.to(device), RaggedRows(*(part.to(device) for part in layout))
    )
    torch.testing.assert_close(single.cpu().double(), exact, rtol=1e-5, atol=1e-5)


def test_clipping(device):
    log_r = torch.tensor([0.5, 0.79, 1.0, 1.19, 1.3], dtype=torch.float64, device=device).log()
    expected = torch.tensor([0.8, 0.8, 1.0, 1.19, 1.2], dtype=torch.float64, device=device)
    torch.testing.assert_close(clip_log_weight(log_r, 0.2), expected)
    assert (clip_log_weight(log_r, 0.0) == 1.0).all()
    torch.testing.assert_close(clip_log_weight(log_r, 5.0), log_r.exp())
    torch.testing.assert_close(clip_log_weight(log_r, 1.0), log_r.exp().clamp(max=2.0))
    huge = torch.tensor([-200.0, 200.0], device=device)  # exp overflows in fp32
    torch.testing.assert_close(clip_log_weight(huge, 0.2), torch.tensor([0.8, 1.2], device=device))


def test_no_gradient(device):
    log_p = torch.zeros(1, 4, device=device).log_softmax(1).requires_grad_()
    layout = RaggedRows.of(torch.tensor([2], device=device), num_values=2, width=2)
    for weight in (log_weight_paper, log_weight_exact):
        assert not weight(log_p, torch.tensor([1, 3], device=device), layout).requires_grad
