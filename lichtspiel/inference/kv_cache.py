"""What is the same in every step of a run is computed in the first: the text, the image, and their keys and values.

Put on a DiT from outside, and taken off again; the model knows nothing of it. What comes out is bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from lichtspiel.models.dit import Block, Context, CrossAttention, DiT

__all__ = ["kv_cache"]

KEPT = 2
"""How many different texts are kept: the prompt and the negative prompt of classifier-free guidance."""

Pairs = list[tuple[Tensor, Tensor]]


@contextmanager
def kv_cache(model: DiT) -> Iterator[None]:
    """Inside, `model` embeds a text and an image once, however often it is called with them, for inference only.

    A text is known by its content, so that a caller may build the same batch anew for each step. The last two are
    kept; each holds two times its tokens, the width and the layers in numbers (1.3B, 20 tokens: 8 MB; 14B with 257
    tokens of an image in bfloat16: 220 MB). Weights must not change inside.
    """
    memory = _Memory(model.embed_context)
    blocks = [cast(Block, block) for block in (*model.blocks, *getattr(model, "vace_blocks", ()))]
    model.embed_context = memory.embed_context  # type: ignore[method-assign]
    for block in blocks:
        attention = block.cross_attn
        attention.keys_values = memory.keys_values(attention)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del model.embed_context
        for block in blocks:
            del block.cross_attn.keys_values


class _Memory:
    """Texts and images that were seen, what they became, and the keys and values of each layer."""

    def __init__(self, embed: Callable[[Tensor, Tensor | None], Context]) -> None:
        self.embed = embed
        self.seen: list[tuple[Tensor, Tensor | None, Context]] = []
        self.pairs: dict[CrossAttention, list[tuple[Tensor, Pairs]]] = {}

    def embed_context(self, text: Tensor, image: Tensor | None) -> Context:
        for known_text, known_image, context in self.seen:
            if _equal(text, known_text) and _equal(image, known_image):
                return context
        context = self.embed(text, image)
        self.seen = [*self.seen[1 - KEPT :], (text, image, context)]
        return context

    def keys_values(self, attention: CrossAttention) -> Callable[[Tensor, Tensor | None], Pairs]:
        compute = attention.keys_values

        def remembered(text: Tensor, image: Tensor | None) -> Pairs:
            kept = self.pairs.setdefault(attention, [])
            for known, pairs in kept:
                if known is text:  # `embed_context` gives the same tensor for the same text and image
                    return pairs
            pairs = compute(text, image)
            self.pairs[attention] = [*kept[1 - KEPT :], (text, pairs)]
            return pairs

        return remembered


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))
