"""Which positions: units (subwords, whole words, or spans of whole words), and K disjoint masks of them.

A unit is a run of consecutive maskable tokens. Units are given by their first tokens, as indices into the
m maskable tokens of an item.

K disjoint masks of one sequence (fully-explored MLM, 2010.06040, Section 3.3), one rule for every unit.

Permute the units, concatenate their tokens, rotate by a uniform offset in [0, m), cut the first K * tau into
K runs, shuffle the runs' labels. The rotation puts every token at a uniform place of the circle, so that it
is in each split with probability exactly tau / m, however long its unit; the shuffled labels give all splits
the same joint law. A unit is cut at a run's ends only. For subwords each mask is uniform over all masks of
tau positions (Lemma 2); for words and spans only the marginals are uniform.

Shapes: T tokens of an item, m maskable tokens, U units, W words,
K splits, k = tau positions of a split.
"""

import numpy as np
import numpy.typing as npt

from fairseq_masking.masking.config import MaskingConfig, MaskingVocabulary

__all__ = [
    "MAX_COLLOCATION",
    "cut_splits",
    "join_collocations",
    "span_length_cdf",
    "tile_spans",
    "unit_starts",
    "word_starts",
]

MAX_COLLOCATION = 5  # words


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
    if config.unit == "pmi":
        return join_collocations(tokens_T, maskable_m, words_W, vocabulary.collocations)
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


def join_collocations(
    tokens_T: npt.NDArray[np.int64],
    maskable_m: npt.NDArray[np.int64],
    words_W: npt.NDArray[np.int64],
    collocations: frozenset[bytes],
) -> npt.NDArray[np.int64]:
    """Joins words that stand in the list, from the left, the longest n-gram first (PMI-masking, 2010.01825).

    Returns:
        int64 [U], the first tokens of the units, a subset of ``words_W``.
    """
    tokens_m = tokens_T[maskable_m]
    ends_W = np.append(words_W[1:], len(maskable_m))
    # How many words from each one on stand together, no special among them.
    cut_W = np.flatnonzero(np.append(np.diff(maskable_m)[words_W[1:] - 1] > 1, True))
    room_W = cut_W[np.searchsorted(cut_W, np.arange(len(words_W)))] - np.arange(len(words_W)) + 1
    units, word = [], 0
    while word < len(words_W):
        units.append(word)
        start = words_W[word]
        lengths = range(min(MAX_COLLOCATION, room_W[word]), 1, -1)
        word += next((n for n in lengths if tokens_m[start : ends_W[word + n - 1]].tobytes() in collocations), 1)
    return words_W[units]


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


def cut_splits(
    starts_U: npt.NDArray[np.int64],
    num_maskable: int,
    num_splits: int,
    num_masked: int,
    rng: np.random.Generator,
    weights_U: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.int64]:
    """Draws K disjoint sets of tau maskable tokens.

    Args:
        starts_U: int64 [U], first token of each unit, ascending from 0.
        num_maskable: m.
        num_splits: K.
        num_masked: tau, with K * tau <= m.
        rng: the item's stream for positions.
        weights_U: of the units, positive: draw one after the other in proportion to them, without replacement.
            None: all alike.

    Returns:
        int64 [K, k], indices into the maskable tokens, ascending in no split.

    Deviation: the paper cuts the permuted sequence from its beginning; the rotation makes the probabilities
    exact also for units of several tokens and changes nothing for subwords.
    """
    assert 0 < num_splits * num_masked <= num_maskable
    if weights_U is None:
        order_U, offset = rng.permutation(len(starts_U)), rng.integers(num_maskable)
    else:  # the smallest of exponential variates with these rates are such draws
        order_U, offset = np.argsort(rng.exponential(size=len(starts_U)) / weights_U), np.int64(0)
    labels_K = rng.permutation(num_splits)

    tokens_m = order_U if len(starts_U) == num_maskable else _concatenate(starts_U, order_U, num_maskable)
    rotated_m = np.concatenate((tokens_m[offset:], tokens_m[:offset]))
    return rotated_m[: num_splits * num_masked].reshape(num_splits, num_masked)[labels_K]


def _concatenate(
    starts_U: npt.NDArray[np.int64], order_U: npt.NDArray[np.int64], num_maskable: int
) -> npt.NDArray[np.int64]:
    """The tokens of the units, unit after unit in the given order."""
    lengths_U = np.diff(starts_U, append=num_maskable)[order_U]
    ends_U = np.cumsum(lengths_U)
    # Within a unit the source index runs along with the target index, so one shift serves all its tokens.
    shifts_U = starts_U[order_U] - (ends_U - lengths_U)
    return np.arange(num_maskable) + np.repeat(shifts_U, lengths_U)
