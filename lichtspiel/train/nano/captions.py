"""The texts that training draws for a scene of the toybox: languages and wordings by chance."""

from __future__ import annotations

import random

import torch

from lichtspiel.toybox.captions import WORDINGS, Language, caption
from lichtspiel.toybox.prompts import prompt
from lichtspiel.toybox.scene import Scene

__all__ = ["draw_caption", "draw_prompt"]

LANGUAGES: tuple[tuple[Language, float], ...] = (("en", 0.6), ("de", 0.2), ("zh", 0.2))
"""Languages and their shares."""


def draw_caption(scene: Scene, generator: torch.Generator) -> str:
    """One caption of a scene, in a random language and wording."""
    language = _draw_language(generator)
    return caption(scene, language, int(torch.randint(WORDINGS, (), generator=generator)))


def draw_prompt(scene: Scene, generator: torch.Generator) -> tuple[str, frozenset[str]]:
    """One short prompt for a scene, in a random language, and the names of the facts that it tells."""
    language = _draw_language(generator)
    return prompt(scene, language, random.Random(int(torch.randint(2**31, (), generator=generator))))


def _draw_language(generator: torch.Generator) -> Language:
    shares = torch.tensor([share for _, share in LANGUAGES])
    return LANGUAGES[int(torch.multinomial(shares, 1, generator=generator))][0]
