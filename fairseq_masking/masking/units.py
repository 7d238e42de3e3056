"""Which positions: units (subwords, whole words, or spans of whole words), and K disjoint masks of them.

A unit is a run of consecutive maskable tokens. Units are given by their first tokens, as indices into the
m maskable tokens of an item.

K disjoint masks of one sequence (fully-explored MLM, 2010.06040, Section 3.3), one rule for every unit.

Permute the units, concatenate their tokens, rotate by a uniform offset in [0, m), cut the first K * tau into
K runs, shuffle the runs' labels. The rotation puts every token at a uniform place of the circle, so that it
is in each split with probability exactly tau / m, however long its unit; the shuffled labels give all splits
the same joint law. A unit is cut at a run's ends only. For subwords each mask is uniform over all masks of
tau positions (Lemma 2); for words and spans only the marginals are uniform.

Shapes: T tokens of an item, m maskable tokens, U units, W words, K splits, k = tau positions of a split.
"""

import numpy as np

from fairseq_masking.masking.config import Floats, Ints, MaskingConfig, MaskingVocabulary

__all__ = [
    "MAX_COLLOCATION", "cut_splits", "join_collocations", "span_length_cdf", "tile_spans", "unit_starts",
    "word_starts",
]  # fmt: skip

MAX_COLLOCATION = 5  # words


def unit_starts(
    tokens_T: Ints,
    maskable_m: Ints,
    config: MaskingConfig,
    vocabulary: MaskingVocabulary,
    span_cdf: Floats,
    rng: np.random.Generator,
) -> Ints:
    """The first tokens of an item's units: [U], ascending indices into ``maskable_m``; the first is 0.

    ``maskable_m`` are ascending columns, none of them 0; ``span_cdf``, of ``span_length_cdf``, and ``rng`` are for
    spans only.
    """
    if config.unit == "subword":
        return np.arange(len(maskable_m))
    words_W = word_starts(tokens_T, maskable_m, vocabulary)
    if config.unit == "pmi":
        return join_collocations(tokens_T, maskable_m, words_W, vocabulary.collocations)
    return words_W if config.unit == "whole_word" else tile_spans(words_W, span_cdf, rng)


def word_starts(tokens_T: Ints, maskable_m: Ints, vocabulary: MaskingVocabulary) -> Ints:
    """Whole words: a token that starts a word, and any token behind a special, begins a unit.

    A special breaks a word, and a block that begins mid-word has a unit there, behind its <s> (which the
    vocabulary must therefore count as special). Returns [W], ascending indices into ``maskable_m``.
    """
    assert vocabulary.starts_word is not None
    starts_m = vocabulary.starts_word[tokens_T[maskable_m]]
    starts_m |= vocabulary.special[tokens_T[maskable_m - 1]]
    return np.flatnonzero(starts_m)


def join_collocations(tokens_T: Ints, maskable_m: Ints, words_W: Ints, collocations: frozenset[bytes]) -> Ints:
    """Joins words that stand in the list, from the left, the longest n-gram first (PMI-masking, 2010.01825).

    Returns the first tokens of the units [U], a subset of ``words_W``.
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


def tile_spans(words_W: Ints, span_cdf: Floats, rng: np.random.Generator) -> Ints:
    """Tiles a sequence into spans of whole words with independently drawn lengths.

    Spans run over separators between sentences (which are masked in no case); the last span ends with the
    sequence. Returns the first tokens of the spans [U], a subset of ``words_W``.
    """
    # As many lengths as words always suffice, and a number that depends on nothing random keeps it one draw.
    lengths_W = 1 + np.searchsorted(span_cdf, rng.random(len(words_W)), side="right")
    first_words = np.cumsum(lengths_W) - lengths_W
    return words_W[first_words[: np.searchsorted(first_words, len(words_W))]]


def span_length_cdf(geometric_p: float, max_length: int) -> Floats:
    """The law of span lengths: Geometric(p) truncated to 1..max and renormalised (SpanBERT, Section 3.1).

    Returns P(length <= 1), ..., P(length <= max - 1); ``searchsorted`` of a uniform number in [0, 1) in it, to the
    right, is the length minus 1.
    """
    mass = geometric_p * (1.0 - geometric_p) ** np.arange(max_length)
    return (np.cumsum(mass) / mass.sum())[:-1]


def cut_splits(
    starts_U: Ints,
    num_maskable: int,
    num_splits: int,
    num_masked: int,
    rng: np.random.Generator,
    weights_U: Floats | None = None,
) -> Ints:
    """Draws K disjoint sets of tau maskable tokens, K * tau <= m: [K, k], indices into them, ascending in no split.

    With ``weights_U``, positive, units are drawn one after the other in proportion to them, without replacement; else
    all alike. ``rng`` is the item's stream for positions.

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


def _concatenate(starts_U: Ints, order_U: Ints, num_maskable: int) -> Ints:
    """The tokens of the units, unit after unit in the given order."""
    lengths_U = np.diff(starts_U, append=num_maskable)[order_U]
    ends_U = np.cumsum(lengths_U)
    # Within a unit the source index runs along with the target index, so one shift serves all its tokens.
    shifts_U = starts_U[order_U] - (ends_U - lengths_U)
    return np.arange(num_maskable) + np.repeat(shifts_U, lengths_U)
