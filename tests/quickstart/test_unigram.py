"""The unigram baseline against a case counted by hand."""

import numpy as np
import pytest
from unigram import Unigram

# Symbols 0 and 1 are special; symbols 2, 3, 4 occur 7, 2, 0 times: with one added to each, 8, 3, 1 of 12.
COUNTS = np.array([100, 0, 7, 2, 0])


def test_probabilities():
    unigram = Unigram(COUNTS, [0, 1])
    assert unigram.probabilities_V == pytest.approx([0, 0, 8 / 12, 3 / 12, 1 / 12])
    assert unigram.probability(3) == pytest.approx(0.25)


def test_score():
    score = Unigram(COUNTS, [0, 1]).score(np.array([2, 2, 3, 4]))
    loss = -(2 * np.log2(8 / 12) + np.log2(3 / 12) + np.log2(1 / 12)) / 4
    assert score.loss == pytest.approx(loss)
    assert score.ppl == pytest.approx(2**loss)
    assert score.accuracy == 50.0


def test_on_its_own_text_the_loss_is_the_entropy():
    counts = np.array([0, 50_000, 25_000, 25_000])
    targets = np.repeat(np.arange(4), counts)
    assert Unigram(counts, [0]).score(targets).loss == pytest.approx(1.5, abs=1e-6)
