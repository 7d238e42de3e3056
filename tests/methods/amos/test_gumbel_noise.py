"""gumbel_noise: its law, its tail, its independence, and what it is a function of."""

import math

import pytest
import torch

from fairseq_masking.methods.amos.gumbel_mixture.chunks import row_keys
from fairseq_masking.methods.amos.gumbel_mixture.torch_rows import add_gumbel_noise_


def noise(seed, rows, columns, device="cpu", dtype=torch.float32):
    keys = row_keys(torch.tensor(seed), rows, torch.device(device))
    return add_gumbel_noise_(torch.zeros(rows, columns, dtype=dtype, device=device), keys)


def sixteenths(gumbel):
    """Cut the distribution into 16 parts of one probability."""
    return (torch.exp(-torch.exp(-gumbel.double())) * 16).long().clamp_(max=15)


def excess(chi_square, degrees):
    """How far a chi-square is from what is expected, in standard deviations."""
    return abs(chi_square - degrees) / math.sqrt(2 * degrees)


@pytest.mark.parametrize("seed", [0, 1, 2**61 + 12345, -7])
def test_the_distribution_is_gumbels(seed, device):
    """Kolmogorov-Smirnov over a million values; one in a thousand of true samples lies beyond 1.95."""
    below = torch.exp(-torch.exp(-noise(seed, 64, 16_384, device).double())).flatten().sort().values
    steps = torch.arange(len(below) + 1, device=device) / len(below)
    distance = torch.maximum((below - steps[:-1]).abs().max(), (below - steps[1:]).abs().max())
    assert distance * math.sqrt(len(below)) < 1.95


@pytest.mark.parametrize("line", ["row", "column"])
def test_each_row_and_each_column_alone_has_it(line, device):
    parts = sixteenths(noise(5, 1600, 1600, device)).cpu()
    parts = parts if line == "row" else parts.t()
    counts = torch.stack([torch.bincount(values, minlength=16) for values in parts]).double()
    chi_squares = ((counts - 100) ** 2 / 100).sum(1)
    assert excess(chi_squares.sum().item(), 1600 * 15) < 4
    assert excess(chi_squares.max().item(), 15) < 8


@pytest.mark.parametrize("rows", [0, 1, 2, 256])
@pytest.mark.parametrize("columns", [0, 1, 16, 256])
@pytest.mark.parametrize("other_seed", [False, True])
def test_neighbours_are_independent(rows, columns, other_seed, device):
    """Between rows, between columns, along the diagonal, between seeds: pairs of parts."""
    if not (rows or columns or other_seed):
        return
    first = sixteenths(noise(8, 768, 768, device))
    second = sixteenths(noise(9, 768, 768, device)) if other_seed else first
    pairs = 16 * first[rows:, columns:] + second[: 768 - rows, : 768 - columns]
    expected = pairs.numel() / 256
    counts = torch.bincount(pairs.flatten(), minlength=256)
    assert excess(((counts - expected) ** 2 / expected).sum().item(), 255) < 4


def test_the_tail_is_fine(device):
    """Of uniform numbers with 24 bits the largest variates would be a dozen values, none beyond 16.7."""
    drawn = noise(0, 1024, 32_768, device)
    large = drawn[drawn > 14]
    expected = drawn.numel() * -math.expm1(-math.exp(-14))
    assert abs(len(large) - expected) < 4 * math.sqrt(expected)
    assert len(large.unique()) > 0.9 * len(large)
    assert drawn.isfinite().all()


def test_a_value_depends_on_seed_row_and_column_alone(device):
    whole = noise(3, 70, 5000, device)
    torch.testing.assert_close(noise(3, 9, 4001, device), whole[:9, :4001], rtol=0, atol=0)
    double = noise(3, 70, 5000, device, torch.float64).float()
    upper = whole > -2  # below, fp32 keeps few digits of what is near 1
    torch.testing.assert_close(double[upper], whole[upper], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(double, whole, rtol=0.1, atol=0)
    assert not torch.isclose(noise(4, 70, 5000, device), whole).all(dim=1).any()


def in_plain_integers(seed, row, column):
    """The definition, in Python's own numbers: runs replay across versions."""
    state = (seed + (row + 1) * 0x9E3779B97F4A7C15) % 2**64
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        state = (state ^ (state >> shift)) * multiplier % 2**64
    bits = column
    for key in (state % 2**32, state >> 32):
        bits ^= key
        for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            bits = (bits ^ (bits >> shift)) * multiplier % 2**32
    return -math.log(-math.log1p(-(bits % 2**31 + 0.5) / 2**31))


@pytest.mark.parametrize("seed", [0, 2**61 + 1, -3])
def test_the_definition(seed, device):
    drawn = noise(seed, 40, 30, device, torch.float64).tolist()
    for row, column in ((0, 0), (0, 29), (1, 0), (39, 29), (17, 5)):
        assert drawn[row][column] == pytest.approx(in_plain_integers(seed, row, column), rel=1e-9)
