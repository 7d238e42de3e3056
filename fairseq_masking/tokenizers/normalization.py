"""What happens to a line of raw text before it is tokenised: Moses, sentence splitting, lower-casing."""

import html
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from fairseq_masking.errors import UserError

__all__ = ["SentenceSplitter", "TextNormalizer"]

_CLOSING = "\"'”’»)\\]"
_OPENING = "\"'“‘«(\\[¿¡"
_END = re.compile(
    rf"(?P<stop>[.!?…]+)(?P<close>[{_CLOSING}]*)\s+(?=[{_OPENING}]*\s?(?P<next>\w))|(?P<wide>[。！？][」』”’）]*)\s*"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_RARE_LETTERS = range(0xA000, 0xA48D)  # of the Yi, without case
# Not in Moses's English list, frequent in encyclopedic and technical prose.
_MORE_PREFIXES = frozenset(["al", "approx", "ca", "cf", "e.g", "i.e", "resp", "viz"])
_MORE_NUMERIC_PREFIXES = frozenset(["ch", "eq", "eqs", "fig", "figs", "no", "nos", "p", "pp", "sec", "vol"])


@dataclass(frozen=True)
class TextNormalizer:
    """Turns a raw line into the lines to train on; its language is one that Moses knows."""

    moses_normalize: bool = False  # normalise punctuation (sacremoses)
    split_sentences: bool = False  # one sentence a line
    moses_tokenize: bool = False  # spaces between words and punctuation (sacremoses), no escaping to XML entities
    lowercase: bool = False  # lower-case everything
    moses_lang: str = "en"  # language of the Moses steps and of the sentence splitter's abbreviations
    unescape_entities: bool = False  # HTML's entities ("&amp;") as characters, first of all

    def __post_init__(self) -> None:
        if self.is_costly:
            from sacremoses.corpus import NonbreakingPrefixes

            known = sorted(set(NonbreakingPrefixes().available_langs.values()))
            if self.moses_lang not in known:  # sacremoses would quietly take its English rules
                raise UserError(f"--moses-lang {self.moses_lang!r} has no Moses rules; known are {', '.join(known)}")

    @property
    def is_costly(self) -> bool:
        """Whether the work is worth several processes."""
        return self.moses_normalize or self.split_sentences or self.moses_tokenize

    def sentences(self, line: str) -> list[str]:
        """Returns the lines, none of them empty, that a raw line becomes."""
        line = self._begin(line)
        lines = _splitter(self.moses_lang)(line) if self.split_sentences else [line.strip()]
        return [text for text in map(self._finish, lines) if text]

    def __call__(self, text: str) -> str:
        """Normalises a text as the training data was, without splitting it (for text at inference)."""
        if surrogate := _SURROGATE.search(text):
            raise UserError(
                f"the text {text[:40]!r} holds a lone surrogate ({surrogate[0]!a}), half of a character, from"
                " JSON or bytes that are not UTF-8: put the character in its place, or remove it"
            )
        return self._finish(self._begin(text))

    def steps(self) -> dict[str, Any]:
        """Returns the fields by which text -> ids differs from that of no normalisation at all."""
        names = ("unescape_entities", "moses_normalize", "moses_tokenize", "lowercase")
        language = {"moses_lang": self.moses_lang} if self.moses_normalize or self.moses_tokenize else {}
        return {**{name: True for name in names if getattr(self, name)}, **language}

    def around(self, text: str, hole: str) -> list[str]:
        """Normalises a text of which ``hole`` hides words, as if they stood there; returns what is around them."""
        word = next(letter for letter in map(chr, _RARE_LETTERS) if letter not in text)
        return self(text.replace(hole, word)).split(word)

    def _begin(self, text: str) -> str:
        text = html.unescape(text) if self.unescape_entities else text
        return _moses("MosesPunctNormalizer", self.moses_lang).normalize(text) if self.moses_normalize else text

    def _finish(self, text: str) -> str:
        if self.moses_tokenize:
            text = _moses("MosesTokenizer", self.moses_lang).tokenize(text, return_str=True, escape=False)
        return (text.lower() if self.lowercase else text).strip()


class SentenceSplitter:
    """Splits a line into sentences by rules in the manner of Moses's split-sentences.perl; needs no download.

    A sentence ends at ``.``, ``!``, ``?`` or an ellipsis, with closing quotes and brackets, where white space
    and something that can begin a sentence follow (no lower-case letter; opening quotes and brackets may
    stand before it), unless the word before a single full stop is an abbreviation: a single letter ("J."),
    dotted letters ("U.S."), or one of the language's non-breaking prefixes ("Dr.", "Fig."; Moses's lists, as
    in sacremoses). Full-width stops (``。！？``) always end a sentence.
    """

    def __init__(self, language: str = "en") -> None:
        from sacremoses.corpus import NonbreakingPrefixes

        self._prefixes = set(_MORE_PREFIXES)  # never end a sentence
        self._numeric_prefixes: set[str] = set()  # do unless a number follows
        for entry in NonbreakingPrefixes().words(language):
            word, numeric, _ = entry.partition("#NUMERIC_ONLY#")
            (self._numeric_prefixes if numeric else self._prefixes).add(word.strip())
        if language == "en":
            self._prefixes.discard("I")  # more often the pronoun at a sentence's end than an initial

    def __call__(self, line: str) -> list[str]:
        sentences = []
        start = 0
        for match in _END.finditer(line):
            if match["wide"] is None and (match["next"].islower() or self._is_abbreviation(line, start, match)):
                continue
            sentences.append(line[start : match.end()].strip())
            start = match.end()
        return list(filter(None, [*sentences, line[start:].strip()]))

    def _is_abbreviation(self, line: str, start: int, match: re.Match[str]) -> bool:
        if match["stop"] != "." or match["close"]:
            return False
        words = line[start : match.start()].split()
        if not words:
            return True  # a lone full stop belongs to what follows
        word = words[-1].lstrip("\"'“‘«([")
        if word in self._numeric_prefixes or word.lower() in _MORE_NUMERIC_PREFIXES:
            return match["next"].isdigit()
        if word in self._prefixes or word.lower() in _MORE_PREFIXES:
            return True
        return word != "I" and _INITIALS.fullmatch(word) is not None


_splitter = cache(SentenceSplitter)


@cache
def _moses(name: str, language: str) -> Any:
    import sacremoses

    return getattr(sacremoses, name)(lang=language)
