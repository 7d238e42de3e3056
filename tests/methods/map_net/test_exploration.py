"""The share of uniform masks by update, and the coin that all ranks agree on."""

import math

import numpy as np
import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.methods.map_net.sampling import Exploration


def test_the_papers_schedule() -> None:
    schedule = Exploration()
    assert schedule.probability(0) == 1.0
    assert schedule.probability(500_000) == pytest.approx(0.665)
    assert schedule.probability(1_000_000) == pytest.approx(0.33)
    assert schedule.probability(2_000_000) == pytest.approx(0.33), "it stays there"


def test_any_line() -> None:
    schedule = Exploration(start=0.8, end=0.2, updates=3)
    assert [schedule.probability(update) for update in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2])
    assert Exploration(start=0.4, end=0.4, updates=1).probability(7) == pytest.approx(0.4)


def test_by_sentence_the_batch_gets_q_itself() -> None:
    schedule = Exploration(updates=10)
    assert schedule.probability_for_batch(1, 5) == schedule.probability(5)


def test_by_batch_all_or_nothing_from_seed_and_update_alone() -> None:
    schedule = Exploration(start=0.7, end=0.7, updates=1, unit="batch")
    coins = np.array([[schedule.probability_for_batch(seed, update) for update in range(2000)] for seed in (1, 2)])
    assert set(coins.flatten()) == {0.0, 1.0}
    again = Exploration(start=0.7, end=0.7, updates=99, unit="batch")
    assert [again.probability_for_batch(1, update) for update in range(2000)] == coins[0].tolist()
    fair = Exploration(start=0.5, end=0.5, updates=1, unit="batch")
    had = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert [fair.probability_for_batch(1, update) for update in range(16)] == had, "a run of before goes on with them"
    assert abs(coins.mean() - 0.7) < 4 * math.sqrt(0.7 * 0.3 / coins.size)
    assert abs(np.corrcoef(coins)[0, 1]) < 0.1, "another seed, other coins"
    assert abs(np.corrcoef(coins[0, 1:], coins[0, :-1])[0, 1]) < 0.1


def test_by_batch_the_ends_are_certain() -> None:
    always, never = Exploration(1.0, 1.0, 5, "batch"), Exploration(0.0, 0.0, 5, "batch")
    assert {always.probability_for_batch(3, update) for update in range(200)} == {1.0}
    assert {never.probability_for_batch(3, update) for update in range(200)} == {0.0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": 1.5}, "--explore-start 1.5: a probability"),
        ({"start": math.nan}, "--explore-start nan"),
        ({"end": -0.1}, "--explore-end -0.1: a probability"),
        ({"start": 0.3, "end": 0.5}, "--explore-end 0.5 is above --explore-start 0.3"),
        ({"updates": 0}, "--explore-updates 0: at least 1"),
        ({"unit": "token"}, "--explore-unit token: choose one of sentence, batch"),
    ],
)
def test_bad_options(options, says) -> None:
    with pytest.raises(UserError, match=says):
        Exploration(**options)
