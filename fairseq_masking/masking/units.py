"""Where the units of masking begin: subwords, whole words, or spans of whole words.

A unit is a run of consecutive maskable tokens. Units are given by their first tokens, as indices into the
m maskable tokens of an item.

Shapes: T tokens of an item, m maskable tokens, U units, W words.
"""

import numpy as np
import numpy.typing as npt

from fairseq_masking.masking.config import MaskingConfig
from fairseq_masking.masking.vocabulary import MaskingVocabulary

__all__ = ["span_length_cdf", "tile_spans", "unit_starts", "word_starts"]


def unit_starts(
    tokens_T: npt.NDArray[np.int64],
    maskable_m: npt.NDArray[np.int64],
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    span_cdf: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """The first tokens of an item's units.

    Args:
        tokens_T: int64 [T] with the outer <s>, </s>.
        maskable_m: int64 [m], ascending columns of the maskable tokens, none of them 0.
        config: names the unit.
        vocabulary: specials and word beginnings.
        span_cdf: ``span_length_cdf`` of the configuration; read for spans only.
        rng: drawn from for spans only.

    Returns:
        int64 [U], ascending indices into ``maskable_m``; the first is 0.
    """
    if config.unit == "subword":
        return np.arange(len(maskable_m))
    words_W = word_starts(tokens_T, maskable_m, vocabulary)
    return words_W if config.unit == "whole_word" else tile_spans(words_W, span_cdf, rng)


def word_starts(
    tokens_T: npt.NDArray[np.int64], maskable_m: npt.NDArray[np.int64], vocabulary: MaskingVocabulary
) -> npt.NDArray[np.int64]:
    """Whole words: a token that starts a word, and any token behind a special, begins a unit.

    A special breaks a word, and a block that begins mid-word has a unit there, behind its <s> (which the
    vocabulary must therefore count as special).

    Returns:
        int64 [W], ascending indices into ``maskable_m``.
    """
    assert vocabulary.starts_word is not None
    starts_m = vocabulary.starts_word[tokens_T[maskable_m]]
    starts_m |= vocabulary.special[tokens_T[maskable_m - 1]]
    return np.flatnonzero(starts_m)


def tile_spans(
    words_W: npt.NDArray[np.int64], span_cdf: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Tiles a sequence into spans of whole words with independently drawn lengths.

    Spans run over separators between sentences (which are masked in no case); the last span ends with the
    sequence.

    Returns:
        int64 [U], the first tokens of the spans, a subset of ``words_W``.
    """
    # As many lengths as words always suffice, and a number that depends on nothing random keeps it one draw.
    lengths_W = 1 + np.searchsorted(span_cdf, rng.random(len(words_W)), side="right")
    first_words = np.cumsum(lengths_W) - lengths_W
    return words_W[first_words[: np.searchsorted(first_words, len(words_W))]]


def span_length_cdf(geometric_p: float, max_length: int) -> npt.NDArray[np.float64]:
    """The law of span lengths: Geometric(p) truncated to 1..max and renormalised (SpanBERT, Section 3.1).

    Returns:
        float64 [max - 1], P(length <= 1), ..., P(length <= max - 1); ``searchsorted`` of a uniform number in
        [0, 1) in it, to the right, is the length minus 1.
    """
    mass = geometric_p * (1.0 - geometric_p) ** np.arange(max_length)
    return (np.cumsum(mass) / mass.sum())[:-1]
