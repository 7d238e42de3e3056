"""The variances that fully-explored MLM logs, against numbers by hand and against a simulation."""

from argparse import Namespace

import pytest
import torch
from fairseq.logging import metrics
from small_batches import batch

from fairseq_masking.errors import UserError
from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
from fairseq_masking.methods.fully_explored.criterion import FullyExploredMLMCriterion, split_statistics
from fairseq_masking.methods.mlm.criterion import MLMCriterionConfig


def test_a_task_that_knows_no_splits_is_refused():
    with pytest.raises(UserError, match="--mask-splits 2 or more"):
        FullyExploredMLMCriterion(MLMCriterionConfig(), Namespace(cfg=Namespace()))


@pytest.mark.parametrize("num_splits", [1, 2])
def test_a_batch_logs_its_statistics(num_splits, device):
    """Of one mask a sequence, as in validation, there are none."""
    sample = batch(device, (20, 12), num_splits=num_splits)
    counts, positions = (sample["net_input"][key] for key in ("num_masked", "positions"))
    output = MaskedTokenOutput(torch.linspace(1.0, 9.0, len(positions), device=device), positions)
    criterion = FullyExploredMLMCriterion(MLMCriterionConfig(), Namespace(cfg=Namespace(mask_splits=2)))
    logs = criterion(lambda **_: output, sample)[2]
    expected = split_statistics(output.losses_N, counts, num_splits) if num_splits > 1 else torch.zeros(4)
    found = [logs[f"split_{key}"].item() for key in ("within", "means", "squared_means", "num_sequences")]
    assert found == [value.item() for value in expected] and logs["split_weight"].item() == 2 * found[-1]


def test_by_hand():
    # Two sequences, K = 2, two masked tokens a row: split losses (1, 3) and (5, 5); a skipped third sequence.
    losses = torch.tensor([0.5, 1.5, 2.0, 4.0, 5.0, 5.0, 4.0, 6.0])
    statistics = split_statistics(losses, torch.tensor([2, 2, 2, 2, 0, 0]), num_splits=2)
    assert statistics.within.item() == pytest.approx(2.0)  # (1-2)^2 + (3-2)^2 over K - 1, and 0
    assert statistics.means.item() == pytest.approx(7.0)  # 2 + 5
    assert statistics.squared_means.item() == pytest.approx(29.0)
    assert statistics.num_sequences.item() == 2


def test_ragged_rows_are_means_over_their_own_tokens():
    losses = torch.tensor([1.0, 3.0, 10.0, 20.0, 30.0, 4.0])
    statistics = split_statistics(losses, torch.tensor([2, 3, 1, 0]), num_splits=2)
    assert statistics.within.item() == pytest.approx(162.0 + 8.0)  # (2, 20) and (4, 0)


def test_logged_variances_estimate_what_they_say():
    """Sequence means with variance 4, splits around them with variance 9: W -> 9, between -> 4."""
    generator = torch.Generator().manual_seed(0)
    num_sequences, num_splits = 20000, 3
    means = 2.0 * torch.randn(num_sequences, 1, generator=generator)
    losses = (10 + means + 3.0 * torch.randn(num_sequences, num_splits, generator=generator)).flatten()
    statistics = split_statistics(losses, torch.ones(losses.numel(), dtype=torch.long), num_splits)
    logs = {f"split_{key}": value for key, value in statistics._asdict().items()}
    logs["split_weight"] = statistics.num_sequences * num_splits
    kinds = ("mask", "random", "unchanged")
    logs |= {f"loss_{kind}": 0.0 for kind in kinds} | {f"num_{kind}": 0 for kind in kinds}
    logs |= {"loss": losses.sum(), "sample_size": losses.numel(), "num_correct": 0, "num_skipped": 0}
    with metrics.aggregate(new_root=True) as aggregated:
        FullyExploredMLMCriterion.reduce_metrics([logs])
    values = aggregated.get_smoothed_values()
    assert values["var_within"] == pytest.approx(9.0, rel=0.05)
    assert values["var_between"] == pytest.approx(4.0, rel=0.1)
