"""Mutual information of clusters and tokens: by hand, at its bounds, and of states that are told apart."""

import math

import numpy as np
import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.measure.information import layer_information, most_frequent, mutual_info_score


def test_a_case_by_hand():
    tokens, clusters = np.array([7, 7, 7, 9]), np.array([0, 0, 1, 1])
    # p(7,0) = 1/2, p(7,1) = p(9,1) = 1/4; p(7) = 3/4; p(0) = p(1) = 1/2
    expected = 0.5 * math.log(0.5 / 0.375) + 0.25 * math.log(0.25 / 0.375) + 0.25 * math.log(0.25 / 0.125)
    assert mutual_info_score(tokens, clusters) == pytest.approx(expected)
    assert mutual_info_score(clusters, tokens) == pytest.approx(expected)


def test_its_bounds():
    tokens = np.arange(60) % 5
    assert mutual_info_score(tokens, tokens * 3 + 1) == mutual_info_score(tokens, tokens) == pytest.approx(math.log(5))
    assert mutual_info_score(tokens, np.arange(60) // 30) == pytest.approx(0, abs=1e-12)
    assert mutual_info_score(tokens, np.arange(60)) == pytest.approx(math.log(5))


def test_states_that_tell_the_token_and_states_that_do_not():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 6, 3000)
    centres = 10 * np.eye(6, 8)
    told = (centres[tokens] + rng.normal(size=(3000, 8))).astype(np.float32)
    found = layer_information(told, tokens, 12, seed=1)
    assert found.information == pytest.approx(mutual_info_score(tokens, tokens), rel=0.02)
    assert found.chance < 0.02 and found.num_clusters == 12
    silent = layer_information(rng.normal(size=(3000, 8)).astype(np.float32), tokens, 12, seed=1)
    assert silent.information == pytest.approx(silent.chance, abs=0.01)
    again = layer_information(told, tokens, 12, seed=1)
    assert again == found


def test_too_many_clusters_are_refused():
    with pytest.raises(UserError, match="--clusters 11: there are 10 states"):
        layer_information(np.zeros((10, 2), dtype=np.float32), np.zeros(10, dtype=np.int64), 11, seed=1)


def test_the_most_frequent_tokens():
    counts, special = np.array([90, 5, 0, 7, 7, 1]), np.array([True, False, False, False, False, False])
    assert most_frequent(counts, 3, never=special).tolist() == [1, 3, 4]
    assert most_frequent(counts, 9, never=special).tolist() == [1, 3, 4, 5]
