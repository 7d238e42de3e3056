"""PMI and its units, against the definition by counting; the command, its file, and masks from it."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from commands import prepare_sentences, run_verb

from fairseq_masking.corpus.collocations import find_collocations, read_collocations
from fairseq_masking.corpus.dictionary import load_dictionary, masking_vocabulary
from fairseq_masking.corpus.indexed import load_tokens
from fairseq_masking.errors import UserError
from fairseq_masking.masking import Masker, MaskingConfig, MaskingVocabulary
from fairseq_masking.masking.units import join_collocations, word_starts

EVEN = np.arange(40) % 2 == 0  # even ids begin a word
VOCABULARY = MaskingVocabulary.build(40, range(4), 39, starts_word=EVEN)


def words_of(line: list[int]) -> list[tuple[int, ...]]:
    words: list[tuple[int, ...]] = []
    for token in line:
        words = [*words, (token,)] if EVEN[token] or not words else [*words[:-1], (*words[-1], token)]
    return words


def naive_pmi(lines: list[list[int]], n: int) -> dict[tuple, tuple[float, int]]:
    """PMI_n and count of every n-gram of words, over all ways to cut it."""
    counts = {size: Counter() for size in range(1, n + 1)}
    for words in map(words_of, lines):
        for size in counts:
            counts[size].update(tuple(words[i : i + size]) for i in range(len(words) - size + 1))

    def log_p(gram):
        return math.log(counts[len(gram)][gram] / sum(counts[len(gram)].values()))

    found = {}
    for gram, count in counts[n].items():
        cuts = [c for r in range(1, n) for c in itertools.combinations(range(1, n), r)]
        cut = [sum(log_p(gram[a:b]) for a, b in itertools.pairwise((0, *where, n))) for where in cuts]
        found[gram] = (min(log_p(gram) - one for one in cut), count)
    return found


@pytest.fixture(scope="module")
def lines() -> list[list[int]]:
    """Words of one or two tokens, and some that come together more often than by chance."""
    rng = np.random.default_rng(0)
    fixed = [[4, 5, 6], [8, 10, 11, 12], [14, 16, 18, 20], [22, 24, 23, 26, 28, 30]]
    pieces = [*fixed, *[[token] for token in range(4, 38, 2)], [6, 7], [32, 33]]
    return [[t for i in rng.integers(len(pieces), size=8) for t in pieces[i]] for _ in range(60)]


def test_pmi_is_that_of_the_definition(lines) -> None:
    tokens_T = np.array([token for line in lines for token in (*line, 2)])
    found = list(find_collocations(tokens_T, VOCABULARY, size=10**6, min_count=2))
    for n in (2, 3, 4, 5):
        expected = {g: v for g, v in naive_pmi(lines, n).items() if v[1] >= 2 and v[0] > 1e-9}
        own = [one for one in found if one.num_words == n]
        assert [one.pmi for one in own] == sorted((one.pmi for one in own), reverse=True)
        mine = {one.tokens: (one.pmi, one.count) for one in own if one.pmi > 1e-9}
        assert mine.keys() == {sum(gram, ()) for gram in expected}
        for gram, (pmi, count) in expected.items():
            assert mine[sum(gram, ())] == (pytest.approx(pmi), count)
    few = [one.num_words for one in find_collocations(tokens_T, VOCABULARY, size=8, min_count=2)]
    assert few == [2, 2, 2, 2, 3, 3, 4, 5], "half, a quarter, an eighth, an eighth"


def test_the_longest_from_the_left_are_joined_and_none_over_a_special(lines) -> None:
    grams = [(4, 5, 6), (6, 8), (6, 8, 10, 11), (8, 10, 11, 12), (14, 16, 18, 20), (20, 22)]
    listed = frozenset(np.array(gram, dtype=np.int64).tobytes() for gram in grams)
    for line in lines[:30]:
        row = np.array([0, *line[:9], 2, *line[9:], 2])
        maskable = np.flatnonzero(~VOCABULARY.special[row])
        starts = join_collocations(row, maskable, word_starts(row, maskable, VOCABULARY), listed)
        expected, units = [], [words_of(line[:9]), words_of(line[9:])]
        for words in units:
            while words:
                n = next((n for n in (5, 4, 3, 2) if len(words) >= n and sum(words[:n], ()) in grams), 1)
                expected.append(sum(map(len, words[:n])))
                words = words[n:]
        assert np.diff(starts, append=len(maskable)).tolist() == expected


def test_the_command_writes_what_masks_are_made_of(tmp_path, capsys) -> None:
    data = prepare_sentences(tmp_path)
    dictionary = load_dictionary(data / "dict.txt")
    with pytest.raises(UserError, match="measure pmi --data"):
        read_collocations(data, dictionary)
    assert run_verb("measure", "pmi", "--data", data, "--size", 16) == 0
    assert "8 of 2 words: " in capsys.readouterr().out
    collocations = read_collocations(data, dictionary)
    assert len(collocations) == 16
    vocabulary = masking_vocabulary(dictionary, folder=data, need_words=True, collocations=collocations)
    tokens = load_tokens(str(data / "train"), dictionary)
    row = np.array([0, *itertools.chain.from_iterable(tokens[i].tolist() for i in range(6))])
    wholes = 0
    for epoch in range(20):
        item = Masker(MaskingConfig(unit="pmi", mask_prob=0.3), vocabulary)(row, epoch=epoch, index=0)
        columns = sorted(item.columns[0].tolist())
        runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
        wholes += sum(row[run].tobytes() in collocations for run in runs)
    assert wholes > 10
    (data / "pmi.txt").write_text("1.0\t2\tnowhere there\n")
    with pytest.raises(UserError, match="of another dictionary"):
        read_collocations(data, dictionary)
    assert run_verb("measure", "pmi", "--data", data, "--min-count", 10**6) == 1
