"""Draws of masks: the laws themselves, and that no random stream serves twice."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tiny_problem import EOS, MASK_INDEX

from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskingConfig, MaskingVocabulary
from fairseq_masking.measure.gradient_variance.draws import FixedSequence, covering_masks

CONFIG = MaskingConfig(mask_prob=0.2, leave_unmasked_prob=0.0, random_token_prob=0.0, num_splits=4)


def test_disjoint_masks(sequence: Callable[[int], np.ndarray], vocabulary: MaskingVocabulary) -> None:
    masks = FixedSequence(sequence(20), 3, CONFIG, vocabulary).disjoint_masks(30)
    columns = masks.columns.reshape(30, 16)
    assert all(len(set(row)) == 16 for row in columns.tolist())
    assert len({tuple(sorted(row)) for row in columns.tolist()}) > 25
    assert (masks.replacements == MASK_INDEX).all() and (masks.kinds == 0).all()


def test_independent_masks_are_independent(
    sequence: Callable[[int], np.ndarray], vocabulary: MaskingVocabulary
) -> None:
    masks = FixedSequence(sequence(20), 3, CONFIG, vocabulary).independent_masks(2000)
    hit = np.zeros((2000, 21))
    np.put_along_axis(hit, masks.columns, 1, axis=1)
    assert (hit.sum(1) == 4).all() and not hit[:, 0].any()
    overlaps = (hit[0::2] * hit[1::2]).sum(1)  # hypergeometric: mean 16/20, variance 4 (1/5) (4/5) (16/19)
    assert abs(overlaps.mean() - 0.8) < 4 * np.sqrt(0.539 / 1000)


def test_both_laws_have_the_same_tau_where_the_splits_are_capped(
    sequence: Callable[[int], np.ndarray], vocabulary: MaskingVocabulary
) -> None:
    tokens = sequence(22)
    tokens[[5, 9, 14]] = EOS  # 19 of 22 can be masked; 0.25 * 22 rounds to 6, 4 * 6 do not fit
    fixed = FixedSequence(tokens, 0, replace(CONFIG, mask_prob=0.25), vocabulary)
    assert (fixed.tau, len(fixed.columns_m)) == (4, 19)
    for masks in (fixed.disjoint_masks(2), fixed.independent_masks(8)):
        assert masks.columns.shape == (8, 4)
        assert (tokens[masks.columns] > 3).all()


@pytest.mark.parametrize("distance", [0, 2, 6, 10])
def test_distances_are_exact_and_masks_uniform(
    sequence: Callable[[int], np.ndarray], vocabulary: MaskingVocabulary, distance: int
) -> None:
    config = replace(CONFIG, num_splits=1, mask_prob=0.25)
    masks = FixedSequence(sequence(20), 0, config, vocabulary).masks_at_distance(distance, 800)
    hit = np.zeros((1600, 22))
    np.put_along_axis(hit, masks.columns, 1, axis=1)
    assert (hit.sum(1) == 5).all()
    assert (np.abs(hit[0::2] - hit[1::2]).sum(1) == distance).all()
    for half in (hit[0::2], hit[1::2]):
        assert np.abs(half[:, 1:21].mean(0) - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 800)
        assert not half[:, [0, 21]].any()


def test_impossible_distances(sequence: Callable[[int], np.ndarray], vocabulary: MaskingVocabulary) -> None:
    config = replace(CONFIG, num_splits=1, mask_prob=0.6)
    for distance in (3, -2, 18):
        with pytest.raises(UserError, match=r"0 to 16"):
            FixedSequence(sequence(20), 0, config, vocabulary).masks_at_distance(distance, 1)


def test_too_few_tokens(vocabulary: MaskingVocabulary) -> None:
    fixed = FixedSequence(np.array([0, 5, 2, 6, 2]), 0, CONFIG, vocabulary)
    assert fixed.tau == 0
    with pytest.raises(UserError, match="fewer maskable tokens than the 4 masks"):
        fixed.disjoint_masks(1)


def test_every_round_covers_every_position_with_uniform_masks() -> None:
    maskable_n, k = np.array([1, 2, 4, 5, 7, 8, 9]), 3
    masks = covering_masks(maskable_n, k, MASK_INDEX, num_rounds=2000, rng=np.random.default_rng(1))
    rounds = masks.columns.reshape(2000, 3, k)
    assert all(len(set(mask)) == k for mask in masks.columns.tolist())
    assert (np.sort(rounds.reshape(2000, -1)[:, :7], 1) == maskable_n).all()
    for place in range(3):  # the filled-up last mask among them
        counts = np.bincount(rounds[:, place].ravel(), minlength=10)[maskable_n]
        expected = 2000 * k / 7
        assert ((counts - expected) ** 2 / expected).sum() < 22.5
    pairs = np.sort(rounds[:, 2], 1) @ [100, 10, 1]
    assert len(np.unique(pairs)) == 35, "every mask of 3 of 7 occurs"
