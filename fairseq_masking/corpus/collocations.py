"""Collocations of a prepared corpus: the n-grams of words that PMI-masking masks as a whole, in DATA/pmi.txt.

PMI_n(w_1 .. w_n) = min over segmentations of log p(w_1 .. w_n) / prod p(segment), the n-gram as one segment left
out; p is an n-gram's share of all n-grams of its length. A line of pmi.txt is PMI in nats, count and symbols.

Source: Levine et al. 2021, "PMI-Masking: Principled Masking of Correlated Spans", 2010.01825, Eq. 3; n-grams of
2 to 5 words that occur more than 10 times, ranked by length: half are of 2 words, a quarter of 3, an eighth of 4
and of 5. Deviation: a PMI of 0 and less is no collocation, however short the list.
Shapes: T tokens of the corpus, W words of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from fairseq.data import Dictionary

from fairseq_masking.errors import UserError
from fairseq_masking.files import whole_file
from fairseq_masking.masking import MaskingVocabulary
from fairseq_masking.masking.units import MAX_COLLOCATION, word_starts

__all__ = ["Collocation", "find_collocations", "read_collocations", "write_collocations"]

SHARES = {2: 0.5, 3: 0.25, 4: 0.125, 5: 0.125}  # of the list, by words
_FILE = "pmi.txt"


class Collocation(NamedTuple):
    """An n-gram: PMI in nats, occurrences, words, tokens."""

    pmi: float
    count: int
    num_words: int
    tokens: tuple[int, ...]


def find_collocations(
    tokens_T: npt.NDArray[np.int64], vocabulary: MaskingVocabulary, *, size: int, min_count: int
) -> Iterator[Collocation]:
    """The best of each length, best first; none crosses a special, such as the end of a line.

    All is in memory: some 200 bytes a word of the corpus, whose lines end in </s>.
    """
    columns_m = np.flatnonzero(~vocabulary.special[tokens_T])
    starts_W = word_starts(tokens_T, columns_m, vocabulary)
    ends_W = np.append(starts_W[1:], len(columns_m))
    words_W = _ids_of_words(tokens_T[columns_m], starts_W, ends_W)
    follows_W = np.append(columns_m[starts_W[1:]] == columns_m[starts_W[1:] - 1] + 1, False)  # the next word at once

    ids_W, whole_W = words_W, np.ones(len(words_W), dtype=np.bool_)
    log_W: dict[int, npt.NDArray] = {}  # n -> log p of the n-gram that begins there
    best_W: dict[int, npt.NDArray] = {}  # n -> log p of its likeliest segmentation
    for n in range(1, MAX_COLLOCATION + 1):
        if n > 1:
            whole_W = whole_W & _ahead(follows_W, n - 2, fill=False)
            ids_W = ids_W * (words_W.max() + 1) + _ahead(words_W, n - 1)
        _, first, ids, counts = np.unique(ids_W[whole_W], return_index=True, return_inverse=True, return_counts=True)
        if len(first) == 0:
            return
        ids_W = np.zeros(len(words_W), dtype=np.int64)
        ids_W[whole_W] = ids
        log_W[n] = np.log(counts[ids_W] / whole_W.sum())
        best_W[n] = log_W[n]
        if n > 1:
            split_W = np.max([log_W[t] + _ahead(best_W[n - t], t) for t in range(1, n)], axis=0)
            best_W[n] = np.maximum(log_W[n], split_W)
            at = np.flatnonzero(whole_W)[first]
            pmi = (log_W[n] - split_W)[at]
            ranked = np.argsort(-pmi, kind="stable")
            ranked = ranked[(counts[ranked] >= min_count) & (pmi[ranked] > 0)][: int(size * SHARES[n])]
            for i in ranked:
                inner = slice(starts_W[at[i]], ends_W[at[i] + n - 1])
                yield Collocation(float(pmi[i]), int(counts[i]), n, tuple(tokens_T[columns_m[inner]].tolist()))


def write_collocations(folder: Path, found: list[Collocation], dictionary: Dictionary) -> None:
    """Write pmi.txt."""
    symbols = [" ".join(dictionary.symbols[token] for token in one.tokens) for one in found]
    lines = [f"{one.pmi:.4f}\t{one.count}\t{gram}\n" for one, gram in zip(found, symbols, strict=True)]
    with whole_file(folder / _FILE) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def read_collocations(folder: Path, dictionary: Dictionary) -> frozenset[bytes]:
    """The n-grams of pmi.txt, as ``MaskingVocabulary.collocations`` has them."""
    path, way_out = folder / _FILE, f"fairseq-masking measure pmi --data {folder}"
    if not path.is_file():
        raise UserError(f"--mask-unit pmi needs {path}: make it with {way_out}")
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        tokens = ([dictionary.indices[symbol] for symbol in line.split("\t")[2].split(" ")] for line in lines if line)
        return frozenset(np.array(one, dtype=np.int64).tobytes() for one in tokens)
    except (KeyError, IndexError) as error:
        raise UserError(f"{path} is of another dictionary ({error}): make it anew with {way_out}") from None


def _ids_of_words(
    tokens_m: npt.NDArray[np.int64], starts_W: npt.NDArray[np.int64], ends_W: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    ids_W, known = np.empty(len(starts_W), dtype=np.int64), 0
    for length in np.unique(ends_W - starts_W):
        at = np.flatnonzero(ends_W - starts_W == length)
        types, ids = np.unique(tokens_m[starts_W[at][:, None] + np.arange(length)], axis=0, return_inverse=True)
        ids_W[at] = known + ids.ravel()
        known += len(types)
    return ids_W


def _ahead(values_W: npt.NDArray, by: int, fill: float = 0) -> npt.NDArray:
    """The values of ``by`` words further on."""
    return np.concatenate((values_W[by:], np.full(min(by, len(values_W)), fill, dtype=values_W.dtype)))
