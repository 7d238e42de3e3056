"""A rule-based sentence splitter in the manner of Moses's split-sentences.perl; needs no download.

A sentence ends at ``.``, ``!``, ``?`` or an ellipsis, with closing quotes and brackets, where white space and
something that can begin a sentence follow (no lower-case letter; opening quotes and brackets may stand before
it), unless the word before a single full stop is an abbreviation: a single letter ("J."), dotted letters
("U.S."), or one of the language's non-breaking prefixes ("Dr.", "Fig."; Moses's lists, as in sacremoses).
Full-width stops (``。！？``) always end a sentence.
"""

import re

__all__ = ["SentenceSplitter"]

_CLOSING = "\"'”’»)\\]"
_OPENING = "\"'“‘«(\\[¿¡"
_END = re.compile(
    rf"(?P<stop>[.!?…]+)(?P<close>[{_CLOSING}]*)\s+(?=[{_OPENING}]*\s?(?P<next>\w))|(?P<wide>[。！？][」』”’）]*)\s*"
)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
# Not in Moses's English list, frequent in encyclopedic and technical prose.
_MORE_PREFIXES = frozenset(["al", "approx", "ca", "cf", "e.g", "i.e", "resp", "viz"])
_MORE_NUMERIC_PREFIXES = frozenset(["ch", "eq", "eqs", "fig", "figs", "no", "nos", "p", "pp", "sec", "vol"])


class SentenceSplitter:
    """Splits a line into sentences.

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
