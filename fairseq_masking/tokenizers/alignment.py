"""Where the characters of a normalised text stand in the text that it was made from.

Moses and lower-casing insert spaces and replace characters without saying where. Words stay in order, so the
words of both texts are matched; inside a matched word characters correspond one to one.
"""

import re
from difflib import SequenceMatcher

from fairseq_masking.tokenizers.base import Offsets

__all__ = ["align", "map_offsets"]

_UNIT = re.compile(r"\w+|[^\w\s]")


def align(original: str, normalized: str) -> list[Offsets] | None:
    """Returns for each character of ``normalized`` the stretch of ``original`` that it came from.

    A character that was inserted (a space, a full stop) gets an empty stretch where it would stand; the
    characters of words that were replaced all get the whole of what they replace. None where the texts are
    the same.
    """
    if original == normalized:
        return None
    before, after = _units(original), _units(normalized)
    stretches: list[Offsets] = [(-1, -1)] * len(normalized)
    end = 0  # of the last matched stretch of the original
    for operation, first, last, start, stop in _operations([w for w, _ in before], [w for w, _ in after]):
        if operation == "equal":
            for (_, (a, b)), (_, (c, d)) in zip(before[first:last], after[start:stop], strict=True):
                same = b - a == d - c
                stretches[c:d] = [(a + i, a + i + 1) if same else (a, b) for i in range(d - c)]
        elif start < stop:
            whole = (before[first][1][0], before[last - 1][1][1]) if first < last else (end, end)
            for _, (c, d) in after[start:stop]:
                stretches[c:d] = [whole] * (d - c)
        end = before[last - 1][1][1] if last else 0
    place = 0
    for index, stretch in enumerate(stretches):  # what lies between words
        place = max(place, stretch[1])
        if stretch[0] < 0:
            stretches[index] = (place, place)
    return stretches


def map_offsets(offsets: list[Offsets], stretches: list[Offsets] | None, original: str) -> list[Offsets]:
    """Returns offsets into the normalised text as offsets into ``original``, without spaces at their ends.

    Args:
        stretches: what ``align`` returned for the two texts.
    """
    mapped = []
    for begin, end in offsets:
        if stretches is not None:
            if begin == end:
                begin = end = stretches[begin][0] if begin < len(stretches) else len(original)
            else:
                begin, end = stretches[begin][0], max(stretches[begin][0], stretches[end - 1][1])
        while begin < end and original[begin].isspace():
            begin += 1
        while begin < end and original[end - 1].isspace():
            end -= 1
        mapped.append((begin, end))
    return mapped


def _operations(before: list[str], after: list[str]) -> list[tuple[str, int, int, int, int]]:
    if before == after:  # lower-casing and Moses's tokeniser alone: by far the most texts
        return [("equal", 0, len(before), 0, len(after))]
    return SequenceMatcher(None, before, after, autojunk=False).get_opcodes()


def _units(text: str) -> list[tuple[str, Offsets]]:
    return [(match[0].lower(), match.span()) for match in _UNIT.finditer(text)]
