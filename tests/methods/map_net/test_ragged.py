"""Flat rows and their padded form; Spearman's correlation against a computation by sorting, ties included."""

import numpy as np
import pytest
import torch

from fairseq_masking.methods.map_net.ragged import RaggedRows, rank_correlation


def test_there_and_back(device):
    layout = RaggedRows.of(torch.tensor([2, 0, 3, 1], device=device), num_values=6, width=3)
    assert layout.rows_N.tolist() == [0, 0, 2, 2, 2, 3]
    assert layout.slots_N.tolist() == [0, 1, 0, 1, 2, 0]
    assert layout.starts_B.tolist() == [0, 2, 2, 5]
    values = torch.arange(1.0, 7.0, device=device, requires_grad=True)
    padded = layout.pad(values, fill=-1.0)
    assert padded.tolist() == [[1, 2, -1], [-1, -1, -1], [3, 4, 5], [6, -1, -1]]
    assert torch.equal(layout.flatten(padded), values)
    assert layout.spread(torch.tensor([7.0, 8.0, 9.0, 10.0], device=device)).tolist() == [7, 7, 9, 9, 9, 10]
    (layout.pad(values) * torch.arange(12.0, device=device).view(4, 3)).sum().backward()
    assert values.grad.tolist() == [0, 1, 6, 7, 8, 9]


def mean_ranks(values):
    return np.array([np.mean([np.sum(values < value), np.sum(values <= value) - 1]) for value in values])


def test_against_ranks_by_counting(device):
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 6, (50, 9)).astype(np.float32), rng.normal(size=(50, 9)).astype(np.float32)
    counts = rng.integers(0, 10, 50)
    filled = np.arange(9) < counts[:, None]
    tensors = [torch.from_numpy(array).to(device) for array in (left, right, filled)]
    found, defined = rank_correlation(*tensors)
    num_defined = 0
    for row in range(50):
        one, other = mean_ranks(left[row, : counts[row]]), mean_ranks(right[row, : counts[row]])
        if counts[row] < 2 or one.std() == 0 or other.std() == 0:
            assert not defined[row] and found[row] == 0.0
            continue
        num_defined += 1
        assert defined[row]
        assert found[row].item() == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-5)
    assert num_defined > 30


def test_order_and_reverse(device):
    filled = torch.tensor([[True, True, True, False]] * 2, device=device)
    left = torch.tensor([[1.0, 2.0, 30.0, 9.0], [1.0, 2.0, 30.0, 9.0]], device=device)
    right = torch.tensor([[-5.0, 0.0, 0.5, -9.0], [3.0, 2.0, 1.0, 0.0]], device=device)
    found, defined = rank_correlation(left, right, filled)
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0], device=device))
    assert defined.all()


def test_infinite_values_at_empty_places_do_no_harm(device):
    filled = torch.tensor([[True, True, False, False]], device=device)
    left = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]], device=device)
    found, _ = rank_correlation(left, left, filled)
    assert found.item() == pytest.approx(1.0)
