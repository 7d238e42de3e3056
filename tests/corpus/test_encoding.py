"""Offsets into a normalised text lead back to the text it was made from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from fairseq_masking.corpus.encoding import TextEncoder, align, map_offsets
from fairseq_masking.finetuning.squad.prepare import Answer, answer_tokens
from fairseq_masking.tokenizers.normalization import TextNormalizer

TEXT = "  It’s the “Café Royal”, near 10 Downing St.  (London);\u00a0naïve… 1,000 dollars – 50% off!\n字 ok"
MOSES = TextNormalizer(moses_normalize=True, moses_tokenize=True, lowercase=True)


def test_the_same_text_needs_no_map() -> None:
    assert align("abc", "abc") is None
    assert map_offsets([(0, 2), (2, 3)], None, "a c") == [(0, 1), (2, 3)]


def test_characters_of_a_matched_word_correspond() -> None:
    stretches = align("  Ab, (CD)", "ab , ( cd )")
    assert [("  Ab, (CD)")[a:b] for a, b in stretches] == ["A", "b", "", ",", "", "(", "", "C", "D", "", ")"]


def test_a_replaced_word_gets_the_whole_of_what_it_replaces() -> None:
    original = "so ½… end"
    stretches = align(original, "so 1/2 ... end")
    assert {original[a:b] for a, b in stretches[3:6]} == {"½…"}
    assert [original[a:b] for a, b in stretches[-3:]] == ["e", "n", "d"]


def test_an_inserted_word_gets_an_empty_stretch_in_place() -> None:
    stretches = align("ab cd", "ab x cd")
    assert stretches[3] == (2, 2)
    assert map_offsets([(0, 2), (3, 4), (5, 7)], stretches, "ab cd") == [(0, 2), (2, 2), (3, 5)]


@pytest.mark.parametrize("normalizer", [TextNormalizer(), TextNormalizer(lowercase=True), MOSES])
@pytest.mark.parametrize("kind", ["sentencepiece", "bert", "gpt2"])
def test_every_word_of_a_paragraph_is_found_again(
    kind: str, normalizer: TextNormalizer, prepare: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    options: list[object] = []
    if kind == "gpt2":
        options = request.getfixturevalue("gpt2_options")
    elif kind == "bert":
        vocab = request.getfixturevalue("wordpieces")
        options = ["--tokenizer", "wordpiece", "--wordpiece-vocab", vocab, "--wordpiece-lowercase"]
    encoder = TextEncoder.of_corpus(prepare(*options, vocab_size=None if options else 120))
    encoder = dataclasses.replace(encoder, normalizer=normalizer)
    symbols = encoder.tokenizer.encode(normalizer(TEXT))
    assert symbols == encoder.tokenizer.encode_with_offsets(normalizer(TEXT))[0]
    ids, offsets = encoder.with_offsets(TEXT)
    assert ids == encoder(TEXT)
    assert len(offsets) == len(ids) == len(symbols)
    assert all(begin <= end for begin, end in offsets)
    assert [begin for begin, _ in offsets] == sorted(begin for begin, _ in offsets)
    for word in ("Café Royal", "10", "Downing St", "London", "naïve", "1,000", "50", "ok"):
        answer = Answer(word, TEXT.index(word))
        first, last = answer_tokens(offsets, answer)
        found = TEXT[offsets[first][0] : offsets[last][1]]
        # a token may hold more than the word: "1,000" of a Moses text, "St." of a vocabulary
        assert word in found and len(found) <= len(word) + 3, (word, found)


def test_no_token_shares_a_character_with_a_gap() -> None:
    assert answer_tokens([(0, 2), (2, 2), (4, 6)], Answer("  ", 2)) is None
    assert answer_tokens([(0, 2), (4, 6), (6, 9)], Answer("f", 5)) == (1, 1)
    assert answer_tokens([(0, 2), (4, 6), (6, 9)], Answer("fgh", 5)) == (1, 2)
