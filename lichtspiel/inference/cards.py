"""GPUs that a plan can be made for before anybody has one: their memory, and how fast they multiply.

The figures are the makers' peaks for dense products: of NVIDIA's architecture whitepapers (Ampere GA100 and GA102, Ada,
Hopper, Blackwell) and data sheets (L4, L40S, RTX 6000 Ada). Those of GeForce cards that no whitepaper lists follow the
rule of those that are: products in bfloat16 are twice as fast as float32 outside the tensor cores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lichtspiel.errors import RequestError

__all__ = ["CARDS", "EFFICIENCY", "Card", "card"]

EFFICIENCY = 0.5
"""The share of its peaks that an H100 reached, rounded down: 0.52 in a step of T2V-1.3B at 832x480x81 with compiled
blocks (1.098 s), and 0.52 of its float32 peak in decoding 33 frames (1.75 s)."""

RESERVED = 1_000_000_000
"""Bytes of a GPU that CUDA, its libraries and the screen take."""


@dataclass(frozen=True)
class Card:
    """A GPU: its memory in GiB, its peaks in TFLOP/s, and whether it has units for eight-bit floating point, which are
    twice as fast as those for bfloat16."""

    name: str
    gibibytes: int
    bfloat16: float
    float32: float
    fp8: bool = True

    @property
    def free(self) -> int:
        """Bytes that are free when nothing else runs."""
        return self.gibibytes * 2**30 - RESERVED

    @property
    def rates(self) -> tuple[float, float]:
        """Operations per second to expect in bfloat16 and in float32."""
        return self.bfloat16 * EFFICIENCY * 1e12, self.float32 * EFFICIENCY * 1e12


CARDS = (
    Card("RTX 3060", 12, 25.5, 12.7, fp8=False),
    Card("RTX 3090", 24, 71.2, 35.6, fp8=False),
    Card("RTX 4060", 8, 30.2, 15.1),
    Card("RTX 4060 Ti 16GB", 16, 44.1, 22.1),
    Card("RTX 4070", 12, 58.3, 29.1),
    Card("RTX 4070 Ti SUPER", 16, 88.2, 44.1),
    Card("RTX 4080", 16, 97.5, 48.7),
    Card("RTX 4090", 24, 165.2, 82.6),
    Card("RTX 5070", 12, 61.7, 30.9),
    Card("RTX 5070 Ti", 16, 87.9, 43.9),
    Card("RTX 5080", 16, 112.6, 56.3),
    Card("RTX 5090", 32, 209.5, 104.8),
    Card("RTX A6000", 48, 154.8, 38.7, fp8=False),
    Card("RTX 6000 Ada", 48, 364.2, 91.1),
    Card("L4", 24, 121.0, 30.3),
    Card("L40S", 48, 362.0, 91.6),
    Card("A100 40GB", 40, 312.0, 19.5, fp8=False),
    Card("A100 80GB", 80, 312.0, 19.5, fp8=False),
    Card("H100", 80, 989.4, 66.9),
    Card("H200", 141, 989.4, 66.9),
)


def card(name: str) -> Card:
    """The card with this name, in any case, with or without spaces and the maker's words. Raises RequestError."""
    wanted = _plain(name)
    for each in CARDS:
        if _plain(each.name) == wanted:
            return each
    known = ", ".join(each.name for each in CARDS)
    raise RequestError("gpu", name, f"the cards that are known are {known}; for others give --memory", "RTX 4090")


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())
