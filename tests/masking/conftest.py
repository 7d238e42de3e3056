"""A vocabulary in which one can see the words, and sequences that are awkward on purpose."""

from collections.abc import Callable

import numpy as np
import pytest

from fairseq_masking.masking import MaskingVocabulary

NUM_SYMBOLS = 64
MASK_INDEX = 63
BOS, EOS = 0, 2


@pytest.fixture(scope="session")
def vocabulary() -> MaskingVocabulary:
    """64 symbols: 0-3 and 63 are special, even ids start a word, odd ids go on with one."""
    return MaskingVocabulary.build(
        NUM_SYMBOLS, special_ids=range(4), mask_index=MASK_INDEX, starts_word=np.arange(NUM_SYMBOLS) % 2 == 0
    )


@pytest.fixture(scope="session")
def words() -> Callable[..., np.ndarray]:
    """Builds <s> ... </s> from word lengths; 0 is a separator, a first negative number a started word."""

    def build(*lengths: int) -> np.ndarray:
        inner: list[int] = []
        for number, length in enumerate(lengths):
            if length == 0:
                inner.append(EOS)
            elif length < 0:
                inner.extend([5] * -length)
            else:
                inner.extend([10 + 2 * (number % 20), *[11] * (length - 1)])
        return np.array([BOS, *inner, EOS], dtype=np.int64)

    return build


@pytest.fixture(scope="session")
def random_sequence() -> Callable[..., np.ndarray]:
    """Builds <s> + n random tokens + </s>, about every eighth a separator."""

    def build(n: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        inner = rng.integers(4, MASK_INDEX, size=n)
        inner[rng.random(n) < 0.125] = EOS
        return np.concatenate(([BOS], inner, [EOS])).astype(np.int64)

    return build


@pytest.fixture(scope="session")
def chi_square_limit() -> Callable[[int], float]:
    """The value that chi-square exceeds once in about 30,000 draws (Wilson-Hilferty, z = 4)."""

    def limit(degrees: int) -> float:
        variance = 2.0 / (9.0 * degrees)
        return float(degrees * (1.0 - variance + 4.0 * np.sqrt(variance)) ** 3)

    return limit
