"""Captions in the form that a text encoder takes, and the share of them that training drops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lichtspiel.tokenizer import END, UNKNOWN, Tokenizer, clean, umt5
from lichtspiel.train.data import Dataset

__all__ = ["Prompts", "draw_text", "vocabulary"]

TEXT_DROPOUT = 0.1
"""Share of captions replaced by the empty prompt, which classifier-free guidance needs."""


def draw_text(data: Dataset, index: int, generator: torch.Generator) -> str:
    """A random caption of an item, or the empty prompt."""
    if torch.rand((), generator=generator) < TEXT_DROPOUT:
        return ""
    return data.text(index, generator)


def vocabulary(texts: Iterable[str], size: int | None = None) -> list[int]:
    """The UMT5 ids that occur in texts, in order, with the two that every encoder needs.

    With `size` the result has exactly that many ids: the rarest are dropped, or unused ids are added.
    """
    unigram = umt5()
    counts = Counter(piece for text in texts for piece in unigram.segment(clean(text)))
    special = (END, UNKNOWN)
    if size is None:
        return sorted({*counts, *special})
    common = [piece for piece, _ in counts.most_common() if piece not in special]
    chosen = [*special, *common][:size]
    unused = (piece for piece in range(UNKNOWN + 1, UNKNOWN + 1 + 2 * size) if piece not in set(chosen))
    return sorted([*chosen, *(next(unused) for _ in range(size - len(chosen)))])


class Prompts:
    """Prompts as rows of a text encoder's embedding table, each tokenized once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._rows: dict[str, list[int]] = {}

    def rows(self, prompt: str) -> list[int]:
        """The rows of one prompt."""
        if prompt not in self._rows:
            self._rows[prompt] = self.tokenizer(prompt)
        return self._rows[prompt]

    def encode(self, encoder: nn.Module, prompts: Sequence[str], device: str) -> Tensor:
        """Text states [b, l, w] of prompts, zero-padded to the longest."""
        rows = [self.rows(prompt) for prompt in prompts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        states: Tensor = encoder(ids.to(device), mask.to(device))
        return states * mask[..., None].to(states)
