"""The baseline that a masked language model has to beat: a token's share of the training text, no context.

Shapes: V symbols, N masked tokens.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Score", "Unigram"]


class Score(NamedTuple):
    """Loss in bits a token, perplexity 2**loss, accuracy in percent: as fairseq logs them."""

    loss: float
    ppl: float
    accuracy: float


class Unigram:
    """Token frequencies with add-one smoothing.

    Args:
        counts_V: int64 [V], how often each symbol occurs in the training text.
        special: ids that are never predicted: <s>, <pad>, </s>, <unk>, <mask>. They get probability 0.
    """

    def __init__(self, counts_V: npt.NDArray[np.int64], special: npt.NDArray[np.int64] | list[int]) -> None:
        smoothed = counts_V.astype(np.float64) + 1.0
        smoothed[special] = 0.0
        self.probabilities_V = smoothed / smoothed.sum()

    def score(self, targets_N: npt.NDArray[np.int64]) -> Score:
        """Scores the tokens of masked positions; always guesses the most frequent symbol."""
        loss = float(-np.log2(self.probabilities_V[targets_N]).mean())
        accuracy = float((targets_N == self.probabilities_V.argmax()).mean())
        return Score(loss, 2.0**loss, 100.0 * accuracy)

    def probability(self, token: int) -> float:
        """Probability of a symbol, whatever stands around it."""
        return float(self.probabilities_V[token])
