"""How sure a mask is: a number from 0 to 1 from the signs that were seen while it was found.

Each sign becomes a doubt, from 0 as in half of the frames that are right, to 1 as in the worst tenth of those that are
not; what lies beyond counts no more. Doubts only add up: no sign makes up for another one, whatever the footage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["LIMIT", "LOST", "along", "confidence", "signs"]

LIMIT = 0.5
"""The confidence below which a frame's mask should be looked at."""

LOST = 0.2
"""The confidence below which the object counts as lost: of clips that are right throughout, one in twenty is."""

_DOUBTS = {
    "color": (0.012, 0.294, 2.09), "overlap": (0.087, 0.832, 1.16), "shape": (0.195, 0.779, 2.06),
    "contrast": (0.19, 0.615, 2.64), "hidden": (0.0, 0.753, 1.03), "own": (0.005, 0.608, 1.53),
    "torn": (0.0, 0.176, 4.20), "size": (0.056, 0.988, 2.19),
}  # fmt: skip
"""From where on a sign makes doubtful, where it does so most, and by how much then, as log odds."""

_SURE = 3.0
"""The log odds of a mask that nothing speaks against."""

_RISE = 0.05
"""By how much the confidence rises at most from frame to frame: what was wrong in a mask is carried on with it."""


def signs(facts: Mapping[str, float]) -> dict[str, float]:
    """What speaks against a mask, the more the larger: how far its colors are from those of the selected object; how
    little of what was expected it shows; how much is hidden; how much beside it has its colors and is no background;
    how far its shape is from the selected one, moved as the object moved, and its area, as a logarithm; how faint the
    edges under its outline are; and how much of it stays where it was selected while the rest goes."""
    against = {name: 1 - facts.get(name, 0.0) for name in ("color", "overlap", "shape", "contrast")}
    against |= {name: facts.get(name, 1.0) for name in ("hidden", "own", "torn")}
    return against | {"size": abs(math.log(max(facts.get("size", 0.0), 0.1)))}


def confidence(facts: Mapping[str, float]) -> float:
    """From 0 to 1: whether a mask is likely to be right, from what was seen while it was found in this frame.

    A logistic regression on rendered clips whose true masks are known: `python -m benchmarks.tracking --fit`.
    """
    if "given" in facts:
        return 1.0
    values, total = signs(facts), _SURE
    for name, (least, most, weight) in _DOUBTS.items():
        total -= weight * min(max((values[name] - least) / (most - least), 0.0), 1.0)
    return 1 / (1 + math.exp(-total))


def along(each: Sequence[float], start: int) -> list[float]:
    """The confidence of the frames of a clip, from that of each alone: the middle one of three, which rises slowly away
    from the selected frame."""
    padded = [each[0], *each, each[-1]]
    sure = [value if value == 1 else sorted(padded[n : n + 3])[1] for n, value in enumerate(each)]
    for number in range(start + 1, len(sure)):
        sure[number] = min(sure[number], sure[number - 1] + _RISE)
    for number in range(start - 1, -1, -1):
        sure[number] = min(sure[number], sure[number + 1] + _RISE)
    return sure
