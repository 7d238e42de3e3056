"""Word boundaries by hand."""

import numpy as np
import pytest

from fairseq_masking.masking.units import word_starts

# Ids: even start a word, odd go on with one, 2 is a separator, 3 is <unk>.
CASES = {
    "two words": ([10, 11, 12], [0, 2]),
    "starts mid-word": ([11, 11, 12, 11], [0, 2]),
    "mid-word throughout": ([11, 13, 15], [0]),
    "a separator breaks a word": ([10, 11, 2, 11, 12], [0, 2, 3]),
    "an unknown token breaks a word": ([10, 3, 11], [0, 1]),
    "separators in a row": ([2, 2, 11, 2, 2, 10], [0, 1]),
    "one token": ([11], [0]),
    "separators alone": ([2, 2], []),
}


@pytest.mark.parametrize("name", CASES)
def test_word_starts(name: str, vocabulary) -> None:
    inner, expected = CASES[name]
    tokens = np.array([0, *inner, 2])
    maskable = np.array([i + 1 for i, token in enumerate(inner) if token > 3], dtype=np.int64)
    assert word_starts(tokens, maskable, vocabulary).tolist() == expected


def test_word_starts_equal_a_loop(vocabulary, random_sequence) -> None:
    for seed in range(200):
        tokens = random_sequence(seed % 50 + 1, seed)
        maskable = [i for i in range(1, len(tokens) - 1) if not vocabulary.special[tokens[i]]]
        expected, word_is_open = [], False
        for place, token in enumerate(tokens[:-1]):
            if vocabulary.special[token]:
                word_is_open = False
                continue
            if token % 2 == 0 or not word_is_open:
                expected.append(maskable.index(place))
            word_is_open = True
        assert word_starts(tokens, np.array(maskable, dtype=np.int64), vocabulary).tolist() == expected
