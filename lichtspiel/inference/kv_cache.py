"""A cache for what is the same in every step: the embedded text and image, and their keys and values.

They are computed in the first step. The cache is attached to a DiT from outside and removed afterwards. Results are the
same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from lichtspiel.models.dit import Context, CrossAttention, DiT, Pair, attend_context, embed_context, keys_values

__all__ = ["kv_cache", "outside_graphs"]

KEPT = 2
"""How many texts the cache holds: the prompt and the negative prompt of classifier-free guidance."""

Pairs = list[Pair]
Function = TypeVar("Function", bound=Callable[..., Any])


@contextmanager
def kv_cache(model: DiT, *, compiled: bool = False) -> Iterator[None]:
    """Inside the block, `model` embeds each text and image only once. For inference only.

    What is looked up here, and the attention to it, is left out of the graphs of `compiled` blocks, which would be
    compiled anew for each text and each length of one.

    Texts are compared by content, so a caller may build the same batch again for each step. The cache holds the last
    two; each takes 2 · tokens · width · layers numbers (1.3B, 20 tokens: 8 MB; 14B with 257 image tokens in bfloat16:
    220 MB). Weights must not change inside the block.
    """
    cache = _Cache(compiled)
    layers = [module for module in model.modules() if isinstance(module, CrossAttention)]
    model.embed_context_fn = cache.embed_context
    for layer in layers:
        layer.keys_values_fn = cache.keys_values
        layer.attend_fn = outside_graphs(attend_context) if compiled else attend_context
    try:
        yield
    finally:
        model.embed_context_fn = embed_context
        for layer in layers:
            layer.keys_values_fn, layer.attend_fn = keys_values, attend_context


def outside_graphs(function: Function) -> Function:
    """The same function, which compiled blocks call instead of tracing it."""
    wrapped: Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return wrapped


class _Cache:
    """The last texts and images with their contexts, and the keys and values of those contexts in each layer."""

    def __init__(self, compiled: bool) -> None:
        self.compiled = compiled
        self.contexts: list[tuple[Tensor, Tensor | None, Context]] = []
        self.pairs: dict[CrossAttention, list[tuple[Context, Pairs]]] = {}

    def embed_context(self, model: DiT, text: Tensor, image: Tensor | None) -> Context:
        for cached_text, cached_image, context in self.contexts:
            if _equal(text, cached_text) and _equal(image, cached_image):
                return context
        context = embed_context(model, text, image)
        if self.compiled:
            from torch._dynamo import maybe_mark_dynamic

            maybe_mark_dynamic(context.text, 1)  # blocks hand the context on, and must not be bound to its length
        self.contexts = [*self.contexts[1 - KEPT :], (text, image, context)]
        return context

    def keys_values(self, layer: CrossAttention, context: Context) -> Pairs:
        cached = self.pairs.setdefault(layer, [])
        for cached_context, pairs in cached:
            if cached_context is context:
                return pairs
        pairs = keys_values(layer, context)
        self.pairs[layer] = [*cached[1 - KEPT :], (context, pairs)]
        return pairs


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))
