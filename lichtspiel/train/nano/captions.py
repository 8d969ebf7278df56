"""The captions that training draws for a scene of the toybox, in random languages and wordings."""

from __future__ import annotations

import torch

from lichtspiel.toybox.captions import WORDINGS, Language, caption
from lichtspiel.toybox.scene import Scene

__all__ = ["draw_caption"]

LANGUAGES: tuple[tuple[Language, float], ...] = (("en", 0.6), ("de", 0.2), ("zh", 0.2))
"""Languages and their shares."""


def draw_caption(scene: Scene, generator: torch.Generator) -> str:
    """One caption of a scene, in a random language and wording."""
    shares = torch.tensor([share for _, share in LANGUAGES])
    language = LANGUAGES[int(torch.multinomial(shares, 1, generator=generator))][0]
    return caption(scene, language, int(torch.randint(WORDINGS, (), generator=generator)))
