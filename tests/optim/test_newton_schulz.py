"""Newton-Schulz on stacks of matrices: as one matrix after the other, step by step, in every precision."""

import pytest
import torch
from torch import Tensor

from fairseq_masking.optim.newton_schulz import newton_schulz, precision

SHAPES = [(8, 8), (6, 8), (6, 9), (5, 20), (1, 7), (8, 6), (20, 5)]


def by_the_formula(matrix: Tensor, num_steps: int = 5) -> Tensor:
    """X <- a X + b (X X^T) X + c (X X^T)^2 X, written down, on the shorter side as torch.optim.Muon does it."""
    if matrix.shape[0] > matrix.shape[1]:
        return by_the_formula(matrix.T, num_steps).T
    x = matrix / matrix.pow(2).sum().sqrt()
    for _ in range(num_steps):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_it_is_the_formula_for_every_matrix(shape, num_steps, device):
    matrices = (
        torch.randn(3, *shape, dtype=torch.float64, device=device) * torch.tensor([1.0, 1e-6, 1e6])[:, None, None]
    )
    expected = torch.stack([by_the_formula(matrix, num_steps) for matrix in matrices])
    torch.testing.assert_close(newton_schulz(matrices, num_steps), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(newton_schulz(matrices.float(), num_steps).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("columns", [24, 96])
def test_fp32_keeps_singular_values_of_six_decades(columns, device):
    left, _ = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, 24, dtype=torch.float64))
    values = torch.logspace(0, -6, 24, dtype=torch.float64)
    matrix = (left * values @ right.T).to(device)
    found = newton_schulz(matrix[None].float(), 5)[0].double()
    torch.testing.assert_close(found, by_the_formula(matrix), rtol=0, atol=2e-3)
    assert (torch.linalg.svdvals(newton_schulz(matrix[None], 5)[0])[:8] - 0.95).abs().max() < 0.3


def test_bf16_is_as_good_as_torchs_own(device):
    matrix = torch.randn(32, 128, device=device)
    ours = newton_schulz(matrix[None].bfloat16(), 5)[0].double()
    theirs = torch.optim._muon._zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7).double()
    exact = by_the_formula(matrix.double())
    assert (ours - exact).abs().max() < 2 * (theirs - exact).abs().max() < 0.05


def test_no_matrix_and_a_zero_one(device):
    assert newton_schulz(torch.zeros(0, 3, 4, device=device), 5).shape == (0, 3, 4)
    assert not newton_schulz(torch.zeros(1, 3, 9, device=device), 5).any()


def test_precision_is_what_the_device_multiplies(monkeypatch):
    parameter = torch.zeros(1)
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        assert precision(parameter) == expected
        assert precision(parameter.double()) == torch.float64
