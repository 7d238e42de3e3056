"""Ranked pairs against scikit-learn's area under the ROC curve, and by hand."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from fairseq_masking.methods.amos.criterion import ranked_pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_it_is_scikit_learns_area(share, dtype, device):
    """In bf16 most scores are shared by several; a third of the values does not count."""
    generator = torch.Generator().manual_seed(0)
    upper = torch.rand(5000, generator=generator) < share
    scores = (torch.randn(5000, generator=generator) + upper).to(dtype)
    counts = torch.rand(5000, generator=generator) < 0.67
    given = (scores, upper & counts, ~upper & counts)
    won, pairs = ranked_pairs(*(values.to(device) for values in given))
    expected = roc_auc_score(upper[counts], scores[counts].float())
    assert won.item() / pairs.item() == pytest.approx(expected, abs=1e-12)
    assert pairs.item() == given[1].sum().item() * given[2].sum().item()


def test_pairs_by_hand(device):
    """3 beats 1, ties with 3 and loses to 4; 0 loses to all; the 9 does not count."""
    scores = torch.tensor([3.0, 4.0, 0.0, 9.0, 1.0, 3.0], device=device)
    upper = torch.tensor([1, 0, 1, 0, 0, 0], device=device).bool()
    lower = torch.tensor([0, 1, 0, 0, 1, 1], device=device).bool()
    assert [value.item() for value in ranked_pairs(scores, upper, lower)] == [1.5, 6.0]


@pytest.mark.parametrize("size", [0, 3])
def test_one_class_alone_makes_no_pairs(size, device):
    scores, all_of_them = torch.randn(size, device=device), torch.ones(size, device=device).bool()
    for upper, lower in ((all_of_them, ~all_of_them), (~all_of_them, all_of_them)):
        assert [value.item() for value in ranked_pairs(scores, upper, lower)] == [0.0, 0.0]
