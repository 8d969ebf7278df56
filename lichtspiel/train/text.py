"""Captions in the form that a text encoder takes, the share of them that training drops, and where it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lichtspiel.models.umt5 import UMT5, Block, relative_buckets
from lichtspiel.tokenizer import END, UNKNOWN, Tokenizer, clean, umt5
from lichtspiel.train.data import Dataset

__all__ = ["Prompts", "draw_text", "look_at_neighbors", "vocabulary"]

TEXT_DROPOUT = 0.1
"""Share of captions replaced by the empty prompt, which classifier-free guidance needs."""


ORDER_LAYERS, ORDER_BIAS = 2, 5.0
"""In how many of the first layers heads look at neighbors, and how much that adds to their attention logits."""


@torch.no_grad()
def look_at_neighbors(encoder: UMT5) -> None:
    """Begin with one head of the first layers that looks one piece back, and one that looks one ahead.

    "From left to right" and "from right to left" hold the same pieces. A new encoder, whose biases of distance are all
    near zero, sees no order in them, and none of its parameters alone would bring one about: in nano's world it still
    guessed after 900 steps, and with these heads it was right after 150 (`LOG.md`).
    """
    buckets = relative_buckets(3, encoder.buckets, encoder.max_distance, torch.device("cpu"))
    back, ahead = int(buckets[1, 0]), int(buckets[1, 2])
    for block in list(encoder.blocks)[:ORDER_LAYERS]:
        assert isinstance(block, Block)
        biases = block.pos_embedding.embedding.weight
        biases[back, 0] += ORDER_BIAS
        biases[ahead, 1] += ORDER_BIAS


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
    counts: Counter[int] = Counter()
    for text, times in Counter(texts).items():
        for piece in unigram.segment(clean(text)):
            counts[piece] += times
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
