"""What happens to a line of raw text before it is tokenised: Moses, sentence splitting, lower-casing."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fairseq_masking.errors import UserError

__all__ = ["SentenceSplitter", "TextNormalizer"]

_CLOSING = "\"'”’»)\\]"
_OPENING = "\"'“‘«(\\[¿¡"
_END = re.compile(
    rf"(?P<stop>[.!?…]+)(?P<close>[{_CLOSING}]*)\s+(?=[{_OPENING}]*\s?(?P<next>\w))|(?P<wide>[。！？][」』”’）]*)\s*"
)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
# Not in Moses's English list, frequent in encyclopedic and technical prose.
_MORE_PREFIXES = frozenset(["al", "approx", "ca", "cf", "e.g", "i.e", "resp", "viz"])
_MORE_NUMERIC_PREFIXES = frozenset(["ch", "eq", "eqs", "fig", "figs", "no", "nos", "p", "pp", "sec", "vol"])


@dataclass(frozen=True)
class TextNormalizer:
    """Turns a raw line into the lines to train on; picklable, so that worker processes can hold it.

    Attributes:
        moses_normalize: normalise punctuation (sacremoses).
        split_sentences: one sentence a line.
        moses_tokenize: spaces between words and punctuation (sacremoses), no escaping to XML entities.
        lowercase: lower-case everything.
        moses_lang: language of the Moses steps and of the sentence splitter's abbreviations.

    Raises:
        UserError: the language is unknown to Moses.
    """

    moses_normalize: bool = False
    split_sentences: bool = False
    moses_tokenize: bool = False
    lowercase: bool = False
    moses_lang: str = "en"

    def __post_init__(self) -> None:
        if self.is_costly:
            _check_language(self.moses_lang)

    @property
    def is_costly(self) -> bool:
        """Whether the work is worth several processes."""
        return self.moses_normalize or self.split_sentences or self.moses_tokenize

    def sentences(self, line: str) -> list[str]:
        """Returns the lines, none of them empty, that a raw line becomes."""
        if self.moses_normalize:
            line = self._moses_normalizer.normalize(line)
        lines = self._splitter(line) if self.split_sentences else [line.strip()]
        return [text for text in map(self._finish, lines) if text]

    def __call__(self, text: str) -> str:
        """Normalises a text as the training data was, without splitting it (for text at inference)."""
        if self.moses_normalize:
            text = self._moses_normalizer.normalize(text)
        return self._finish(text)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def _finish(self, text: str) -> str:
        if self.moses_tokenize:
            text = self._moses_tokenizer.tokenize(text, return_str=True, escape=False)
        return (text.lower() if self.lowercase else text).strip()

    @cached_property
    def _splitter(self) -> "SentenceSplitter":
        return SentenceSplitter(self.moses_lang)

    @cached_property
    def _moses_normalizer(self) -> Any:
        from sacremoses import MosesPunctNormalizer

        return MosesPunctNormalizer(lang=self.moses_lang)

    @cached_property
    def _moses_tokenizer(self) -> Any:
        from sacremoses import MosesTokenizer

        return MosesTokenizer(lang=self.moses_lang)


def _check_language(language: str) -> None:
    """sacremoses would quietly take its English rules."""
    from sacremoses.corpus import NonbreakingPrefixes

    known = sorted(set(NonbreakingPrefixes().available_langs.values()))
    if language not in known:
        raise UserError(f"--moses-lang {language!r} has no Moses rules; known are {', '.join(known)}")


class SentenceSplitter:
    """Splits a line into sentences by rules in the manner of Moses's split-sentences.perl; needs no download.

    A sentence ends at ``.``, ``!``, ``?`` or an ellipsis, with closing quotes and brackets, where white space
    and something that can begin a sentence follow (no lower-case letter; opening quotes and brackets may
    stand before it), unless the word before a single full stop is an abbreviation: a single letter ("J."),
    dotted letters ("U.S."), or one of the language's non-breaking prefixes ("Dr.", "Fig."; Moses's lists, as
    in sacremoses). Full-width stops (``。！？``) always end a sentence.

    Args:
        language: code of a Moses prefix list ("en", "de", ...).
    """

    def __init__(self, language: str = "en") -> None:
        prefixes, numeric = _nonbreaking_prefixes(language)
        # In English "I." is more often the pronoun at a sentence's end than an initial.
        self._prefixes = (prefixes | _MORE_PREFIXES) - ({"I"} if language == "en" else set())
        self._numeric_prefixes = numeric

    def __call__(self, line: str) -> list[str]:
        sentences = []
        start = 0
        for match in _END.finditer(line):
            if match["wide"] is None and (
                match["next"].islower() or self._is_abbreviation(line, start, match)
            ):
                continue
            sentence = line[start : match.end()].strip()
            if sentence:
                sentences.append(sentence)
            start = match.end()
        if rest := line[start:].strip():
            sentences.append(rest)
        return sentences

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


def _nonbreaking_prefixes(language: str) -> tuple[frozenset[str], frozenset[str]]:
    """Abbreviations: those that never end a sentence, those that do unless a number follows."""
    from sacremoses.corpus import NonbreakingPrefixes

    always: set[str] = set()
    numeric: set[str] = set()
    for entry in NonbreakingPrefixes().words(language):
        word, flag, _ = entry.partition("#NUMERIC_ONLY#")
        (numeric if flag else always).add(word.strip())
    return frozenset(always), frozenset(numeric)
