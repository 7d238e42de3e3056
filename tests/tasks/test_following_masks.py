"""Masks that follow the update and the model: with any workers, on two ranks, after a stop, the same."""

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_ok, logged_values, run_fairseq_train, weights
from test_masked_pretraining import batches_of, make_task

from fairseq_masking.tasks.following_masks import AdaptiveLaw, draw_masks

FOLLOWING = """--criterion fully_explored_mlm --mask-splits 2 --mask-prob 0.4 --mask-prob-end 0.1 --mask-law adaptive
    --mask-law-updates 3 --mask-prob-schedule cosine --dropout 0.1 --batch-size 8 --disable-validation
    --log-format json --max-update 8"""


def test_a_batch_has_the_masks_of_its_update(small_data) -> None:
    options = {"mask_prob": 0.4, "mask_prob_end": 0.2, "max_update": 10, "mask_splits": 2, "mask_unit": "subword"}
    task = make_task(small_data, **options)
    ((first, *_),) = batches_of(task, num_workers=1)
    assert first["net_input"]["positions"].numel() == 0
    masker = task.dataset("train").masker
    assert masker.config.mask_prob == 0.4
    for update, rate in ((0, 0.4), (5, 0.3), (10, 0.2)):
        batch = draw_masks(first, masker, update=update, rate=task._rate, law=None, pad_index=1, seed=1)
        expected = [
            masker(tokens.numpy(), epoch=1, index=int(index), mask_prob=rate).columns
            for tokens, index in zip(first["net_input"]["src_tokens"][::2], first["id"][::2], strict=True)
        ]
        columns = (batch["net_input"]["positions"] % 32).view(-1, 2, round(30 * rate))
        np.testing.assert_array_equal(columns.numpy(), np.stack(expected))
        assert batch["net_input"]["shape"]["max_masked"] == round(30 * rate)
        assert torch.equal(batch["net_input"]["src_tokens"], first["net_input"]["src_tokens"])


def test_weights_follow_the_accuracy_of_each_symbol() -> None:
    """Against plain loops, over two renewals; a symbol that was not masked keeps its weight."""
    law, rng = AdaptiveLaw(6, updates=2), np.random.default_rng(0)
    expected, seen = [1.0] * 6, defaultdict(list)
    for update in range(1, 6):
        targets, correct = rng.integers(1, 5, size=7), rng.random(7) < 0.5
        law.observe(torch.tensor(targets), torch.tensor(correct))
        if update == 3:  # stopped and resumed between two renewals
            before, law = law, AdaptiveLaw(6, updates=2)
            before.end_update(update)
            law.resume(before.state())
        else:
            law.end_update(update)
        for target, guessed in zip(targets, correct, strict=True):
            seen[target].append(guessed)
        if update % 2 == 0:
            for symbol, guesses in seen.items():
                expected[symbol] = 0.2 * expected[symbol] + 0.8 * (1 - sum(guesses) / len(guesses))
            seen.clear()
        np.testing.assert_allclose(law.weights_V, np.maximum(expected, 1e-6), rtol=1e-12)
    assert law.weights_V[0] == law.weights_V[5] == 1.0


@pytest.fixture(scope="module")
def uninterrupted(small_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("following")
    options = [*FOLLOWING.split(), "--update-freq", "2", "--save-interval-updates", "4"]
    finished = run_fairseq_train(small_data, folder, *options)
    assert_ok(finished)
    rates = [float(line["mask_prob"]) for line in logged_values(finished.stdout) if "mask_prob" in line]
    assert rates[0] == 0.4 and rates == sorted(rates, reverse=True) and len(set(rates)) == 8
    return folder


def test_a_stop_and_other_workers_change_nothing(uninterrupted, small_data, tmp_path) -> None:
    """Stopped after the first renewal, with counts for the second."""
    shutil.copy(uninterrupted / "checkpoint_1_4.pt", tmp_path / "checkpoint_last.pt")
    more = ["--update-freq", "2", "--num-workers", "2"]
    assert_ok(run_fairseq_train(small_data, tmp_path, *FOLLOWING.split(), *more))
    left, right = weights(tmp_path), weights(uninterrupted)
    assert all(torch.equal(left[key], right[key]) for key in right)


def test_two_ranks_draw_the_masks_of_two_micro_batches(uninterrupted, small_data, tmp_path) -> None:
    assert_ok(run_fairseq_train(small_data, tmp_path, *FOLLOWING.split(), "--distributed-world-size", "2"))
    one, two = (
        torch.load(folder / "checkpoint_last.pt", weights_only=True)["extra_state"]["MaskedPretrainingTask"][
            "mask_law"
        ]
        for folder in (uninterrupted, tmp_path)
    )
    assert one["counts"][1].sum() == two["counts"][1].sum() > 0
    torch.testing.assert_close(one["weights"], two["weights"], rtol=0.0, atol=0.05)
    assert one["weights"].unique().numel() > 2
    left, right = weights(tmp_path), weights(uninterrupted)
    for key in right:
        torch.testing.assert_close(left[key], right[key], rtol=1e-3, atol=1e-4)
