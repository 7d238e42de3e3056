import pickle

import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.normalization import SentenceSplitter, TextNormalizer


@pytest.mark.parametrize(
    "sentences",
    [
        ["It works.", "Does it?", "Yes!"],
        ["Dr. J. Smith of the U.S. Navy came.", "He left."],
        ["See No. 5 and Fig. 3 on pp. 7.", "No.", "They did not."],
        ["It was me, not I.", "We went."],
        ['He said "Go."', '"Why?" she asked.', "(Nobody knew.)", "End"],
        ["Version 3.11 of e.g. Python, i.e. the language, vs. others.", "2020 was odd."],
        ["Ends in etc. and goes on.", "Élan follows.", "Then … more"],
        ["这是一句。", "这是另一句！"],
        ["It cost 5. éclairs were cheap."],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    joiner = "" if "。" in sentences[0] else "  "
    assert SentenceSplitter("en")(joiner.join(sentences)) == sentences


def test_nothing_is_lost() -> None:
    line = 'One... two. "Three" (four). 5. Six?! seven. . Eight'
    assert " ".join(SentenceSplitter("en")(line)).split() == line.split()


def test_the_language_decides_the_abbreviations() -> None:
    line = "Das ist bzw. Peter. Mr. Schmidt"
    assert SentenceSplitter("de")(line)[0] == "Das ist bzw. Peter."
    assert SentenceSplitter("en")(line)[0] == "Das ist bzw."


def test_steps_in_order_and_unescaped() -> None:
    normalizer = TextNormalizer(True, True, True, True, "en")
    again = pickle.loads(pickle.dumps(normalizer))
    for one in (normalizer, again, pickle.loads(pickle.dumps(again))):
        assert one.sentences("It’s «Here», Dr. Who & co. It isn't.") == [
            'it \'s " here , " dr. who & co .',
            "it isn 't .",
        ]
        assert one("A. Bee") == "a. bee"
    assert TextNormalizer().sentences("It’s HERE. Really.") == ["It’s HERE. Really."]
    assert TextNormalizer(lowercase=True).sentences("It’s HERE.") == ["it’s here."]


def test_an_unknown_language_is_refused_where_it_matters() -> None:
    with pytest.raises(UserError, match="--moses-lang 'xx' has no Moses rules; known are as, bn"):
        TextNormalizer(moses_tokenize=True, moses_lang="xx")
    TextNormalizer(lowercase=True, moses_lang="xx")
