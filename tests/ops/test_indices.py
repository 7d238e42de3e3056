"""Writing and reading at flat positions, against loops."""

import torch

from fairseq_masking.ops import corrupt_tokens, gather_positions, rows_of_positions


def test_corrupt_and_gather_equal_loops(device):
    tokens = torch.arange(20, device=device).view(4, 5)
    positions = torch.tensor([1, 3, 12, 19], device=device)
    replacements = torch.tensor([90, 91, 92, 93], device=device)
    expected = tokens.clone()
    for position, replacement in zip(positions.tolist(), replacements.tolist(), strict=True):
        expected[position // 5, position % 5] = replacement
    assert torch.equal(corrupt_tokens(tokens, positions, replacements), expected)
    assert torch.equal(tokens, torch.arange(20, device=device).view(4, 5)), "the clean text was overwritten"
    assert gather_positions(tokens, positions).tolist() == [1, 3, 12, 19]
    assert gather_positions(tokens[..., None].expand(4, 5, 2), positions).shape == (4, 2)


def test_rows_of_positions(device):
    counts = torch.tensor([2, 0, 3], device=device)
    assert rows_of_positions(counts, 5).tolist() == [0, 0, 2, 2, 2]
