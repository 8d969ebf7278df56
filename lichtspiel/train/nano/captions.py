"""Captions of scenes as what a text encoder takes, with the chances by which training draws them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lichtspiel.tokenizer import Tokenizer
from lichtspiel.toybox.captions import WORDINGS, Language, caption
from lichtspiel.toybox.scene import Scene

__all__ = ["Captions"]

TEXT_DROPOUT = 0.1
"""Share of captions replaced by the empty prompt, which guidance needs."""

LANGUAGES: tuple[tuple[Language, float], ...] = (("en", 0.6), ("de", 0.2), ("zh", 0.2))


class Captions:
    """Captions of scenes as rows of the encoder's table, tokenised once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def rows(self, prompt: str) -> list[int]:
        """The rows of one prompt."""
        if prompt not in self._known:
            self._known[prompt] = self.tokenizer(prompt)
        return self._known[prompt]

    def draw(self, scene: Scene, generator: torch.Generator) -> str:
        """One caption of a scene: a language and a wording by chance, or the empty prompt."""
        if torch.rand((), generator=generator) < TEXT_DROPOUT:
            return ""
        chosen = int(torch.multinomial(torch.tensor([share for _, share in LANGUAGES]), 1, generator=generator))
        wording = int(torch.randint(WORDINGS, (), generator=generator))
        return caption(scene, LANGUAGES[chosen][0], wording)

    def encode(self, encoder: nn.Module, prompts: Sequence[str], device: str) -> Tensor:
        """Text states [b, l, w] of prompts, padded with zeros to the longest."""
        rows = [self.rows(prompt) for prompt in prompts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        states: Tensor = encoder(ids.to(device), mask.to(device))
        return states * mask[..., None].to(states)
