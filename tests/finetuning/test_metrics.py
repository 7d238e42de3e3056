"""Scores against their definitions."""

import math

import numpy as np
import pytest

from fairseq_masking.finetuning.metrics import metric_names, row_scores


def test_two_classes_by_hand() -> None:
    actual = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    predicted = [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    tp, fn, fp, tn = 3, 1, 1, 5
    scores = row_scores(predicted, actual, num_classes=2)
    assert scores["accuracy"] == pytest.approx(80)
    f1 = 200 * tp / (2 * tp + fp + fn)
    assert scores["f1"] == pytest.approx(f1)
    assert scores["acc_and_f1"] == pytest.approx((80 + f1) / 2)
    mcc = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert scores["mcc"] == pytest.approx(100 * mcc)
    other = 200 * tn / (2 * tn + fp + fn)
    assert scores["macro_f1"] == pytest.approx((f1 + other) / 2)
    assert set(scores) == set(metric_names(2))


def test_several_classes_by_hand() -> None:
    actual, predicted = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]
    scores = row_scores(predicted, actual, num_classes=4)
    # class 0: 1 of 2 found, 1 wrong; 1: 1 of 1, 1 wrong; 2: 2 of 3; class 3 is not met
    assert scores["macro_f1"] == pytest.approx(100 * (0.5 + 2 / 3 + 0.8) / 3)
    assert scores["micro_f1"] == pytest.approx(scores["accuracy"]) == pytest.approx(100 * 4 / 6)
    assert set(scores) == set(metric_names(4))


def test_correlations_by_hand() -> None:
    predicted, actual = np.array([1.0, 2.0, 3.0, 10.0]), np.array([0.0, 1.0, 1.0, 2.0])
    scores = row_scores(predicted, actual, num_classes=1)
    centred = predicted - predicted.mean(), actual - actual.mean()
    pearson = (centred[0] @ centred[1]) / math.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    assert scores["pearson"] == pytest.approx(100 * pearson)
    ranks = np.array([1, 2, 3, 4]) - 2.5, np.array([1, 2.5, 2.5, 4]) - 2.5  # ties share their mean rank
    spearman = (ranks[0] @ ranks[1]) / math.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    assert scores["spearman"] == pytest.approx(100 * spearman)
    assert scores["pearson_and_spearman"] == pytest.approx(50 * (pearson + spearman))


def test_constant_predictions_are_no_nan() -> None:
    assert set(row_scores([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], num_classes=1).values()) == {0.0}
    scores = row_scores([0, 0, 0], [0, 1, 0], num_classes=2)
    assert scores["mcc"] == scores["f1"] == 0 and all(map(math.isfinite, scores.values()))
