"""One scale for both renderings: how much likelier than uniform a position is to be masked, as a colour.

The scale is logarithmic and symmetric about the uniform law: 1/8 and less, ..., 1, ..., 8 times and more.
"""

import math

__all__ = ["LEGEND", "hex_colour", "scale", "terminal_colour"]

LEGEND = ((1 / 8, "⅛"), (1 / 4, "¼"), (1 / 2, "½"), (1.0, "1"), (2.0, "2"), (4.0, "4"), (8.0, "8"))

_OCTAVES = 3.0
# From white to orange; black text on the darkest has a contrast of 7.9 (WCAG AAA asks for 7).
_STOPS = ((255, 255, 255), (255, 243, 214), (255, 214, 140), (255, 174, 74), (246, 138, 42))
_TERMINAL = (231, 230, 229, 223, 222, 221, 215, 214, 208)  # of the 256 colours, much the same


def scale(relative: float) -> float:
    """Return 0 for a position masked at most 1/8 as often as under the uniform law, 1 for 8 times or more."""
    if relative <= 0.0:
        return 0.0
    return min(1.0, max(0.0, (math.log2(relative) + _OCTAVES) / (2 * _OCTAVES)))


def hex_colour(relative: float) -> str:
    """Return the background as #rrggbb."""
    place = scale(relative) * (len(_STOPS) - 1)
    index = min(int(place), len(_STOPS) - 2)
    low, high, part = _STOPS[index], _STOPS[index + 1], place - index
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(low, high, strict=True))


def terminal_colour(relative: float) -> int:
    """Return the background's number among a terminal's 256 colours."""
    return _TERMINAL[round(scale(relative) * (len(_TERMINAL) - 1))]
