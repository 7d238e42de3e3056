"""Wrong options: one line that names the value, what is allowed and the way out."""

from typing import Any

import numpy as np
import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.masking import Masker, MaskingConfig, MaskingVocabulary


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mask_prob": 0.0}, ["--mask-prob", "0.0"]),
        ({"mask_prob": -0.1}, ["--mask-prob", "-0.1"]),
        ({"mask_prob": 1.5}, ["--mask-prob", "1.5"]),
        ({"mask_prob": float("nan")}, ["--mask-prob", "nan"]),
        ({"leave_unmasked_prob": -0.1}, ["--leave-unmasked-prob", "-0.1"]),
        ({"random_token_prob": 1.1}, ["--random-token-prob", "1.1"]),
        ({"random_token_prob": 0.6, "leave_unmasked_prob": 0.6}, ["--leave-unmasked-prob", "--random-token-prob"]),
        ({"unit": "sentence"}, ["--mask-unit", "sentence", "subword", "whole_word", "span"]),
        ({"span_geometric_p": 0.0}, ["--span-geometric-p", "0.0"]),
        ({"num_splits": 0}, ["--mask-splits", "0"]),
        ({"num_splits": 7, "mask_prob": 0.15}, ["--mask-splits 7", "--mask-prob 0.15", "1.05", "at most"]),
        ({"num_splits": 2, "mask_prob": 0.51}, ["--mask-splits 2", "--mask-prob 0.51", "--mask-splits 1"]),
        ({"seed": -1}, ["--seed", "-1"]),
        ({"seed": 2**63}, ["--seed", "9223372036854775808"]),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(UserError) as error:
        MaskingConfig(**options)
    message = str(error.value)
    assert "\n" not in message
    for part in named:
        assert part in message


@pytest.mark.parametrize(("num_splits", "prob"), [(10, 0.1), (8, 0.125), (6, 0.15), (4, 0.25), (3, 1 / 3), (1, 1.0)])
def test_splits_that_just_fit(num_splits: int, prob: float) -> None:
    """10 * 0.1 and 3 * (1 / 3) are 1 whatever their last binary digit says."""
    assert MaskingConfig(num_splits=num_splits, mask_prob=prob).num_splits == num_splits


def test_the_largest_seed() -> None:
    assert MaskingConfig(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize("unit", ["whole_word", "span"])
def test_words_need_word_beginnings(unit: Any) -> None:
    vocabulary = MaskingVocabulary.build(10, special_ids=range(4), mask_index=9)
    with pytest.raises(UserError, match=f"--mask-unit {unit}"):
        Masker(MaskingConfig(unit=unit), vocabulary)


def test_vocabulary_of_specials_alone() -> None:
    with pytest.raises(UserError, match="all are special"):
        MaskingVocabulary.build(5, special_ids=range(4), mask_index=4)


def test_vocabulary_arrays() -> None:
    vocabulary = MaskingVocabulary.build(10, special_ids=range(4), mask_index=9, never_drawn=[7])
    assert np.flatnonzero(vocabulary.special).tolist() == [0, 1, 2, 3, 9]
    assert vocabulary.replacements.tolist() == [4, 5, 6, 8]
