"""Flat rows of different lengths and their padded form."""

import torch

from fairseq_masking.ops.ragged import RaggedRows


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
