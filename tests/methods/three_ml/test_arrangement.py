"""Selected tokens of each row: taken out in order, put back where they were."""

import pytest
import torch

from fairseq_masking.methods.three_ml.arrangement import Selection, arrange

SELECTED = [[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]]


@pytest.fixture
def ragged(device):
    return Selection.of(torch.tensor(SELECTED, dtype=torch.bool, device=device), 4, exact=False)


def test_columns_are_in_order_and_the_rest_is_empty(ragged):
    assert ragged.columns_BS[0, :3].tolist() == [0, 2, 3] and ragged.columns_BS[2].tolist() == [1, 2, 3, 4]
    assert ragged.empty_BS.tolist() == [[False] * 3 + [True], [True] * 4, [False] * 4]


def test_take(ragged, device):
    tokens = torch.arange(10, 25, device=device).view(3, 5)
    assert ragged.take(tokens, fill=-1).tolist() == [[10, 12, 13, -1], [-1] * 4, [21, 22, 23, 24]]


def test_put_back_leaves_no_trace_of_empty_places(ragged, device):
    states = torch.randn(3, 4, 2, device=device, requires_grad=True)
    other = torch.tensor([7.0, 8.0], device=device, requires_grad=True)
    filled = ragged.put_back(states, other)
    for row, chosen in enumerate(SELECTED):
        own = iter(states[row])
        for column, selected in enumerate(chosen):
            assert torch.equal(filled[row, column], next(own) if selected else other)
    upstream = torch.randn_like(filled)
    (filled * upstream).sum().backward()
    mask = torch.tensor(SELECTED, dtype=torch.bool, device=device)
    torch.testing.assert_close(other.grad, upstream[~mask].sum(0))
    assert states.grad[ragged.empty_BS].abs().max() == 0
    torch.testing.assert_close(states.grad[~ragged.empty_BS], upstream[mask])


def test_at_finds_a_token_by_its_flat_position(ragged, device):
    states = torch.arange(12.0, device=device).view(3, 4, 1)
    found = ragged.at(states, torch.tensor([13, 3, 0, 14, 2], device=device))
    assert found.flatten().tolist() == [10, 2, 0, 11, 1]


def test_exact_rows_have_no_empty_places(device):
    selected = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool, device=device)
    exact = Selection.of(selected, 2, exact=True)
    assert exact.empty_BS is None and exact.columns_BS.tolist() == [[0, 2], [1, 2]]
    states = torch.randn(2, 2, 3, device=device)
    filled = exact.put_back(states, torch.zeros(3, device=device))
    assert torch.equal(filled[selected], states.flatten(0, 1)) and filled[~selected].abs().max() == 0


def test_without_any_mask_token_the_decoder_has_an_empty_place(device):
    hidden = torch.zeros(2, 5, dtype=torch.bool, device=device)
    arranged = arrange(hidden, None, torch.tensor([1, 6], device=device), crossing=True)
    assert arranged.masked.empty_BS.tolist() == [[True], [True]]
