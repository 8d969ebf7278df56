"""Remembering a text changes no number, only how often it is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.spec import DiTSpec
from tests.models.test_dit import FIRST_LAST, TINY, VACE, build, inputs


@pytest.mark.parametrize("spec", [TINY, FIRST_LAST, VACE], ids=["text", "first-last", "vace"])
def test_nothing_changes_over_steps_and_texts(spec: DiTSpec) -> None:
    model, given = build(spec), inputs(spec)
    texts = [given["text"][:, :4], given["text"][:, :7], given["text"][:, :4].clone(), given["text"][:, 2:4]]
    with torch.inference_mode():
        expected = [model(**given | {"text": text}) for text in texts]
        with kv_cache(model):
            for _ in range(2):
                for text, velocity in zip(texts, expected, strict=True):
                    assert torch.equal(model(**given | {"text": text}), velocity)
        assert torch.equal(model(**given | {"text": texts[0]}), expected[0])


def test_another_image_is_noticed() -> None:
    model, given = build(FIRST_LAST), inputs(FIRST_LAST)
    other = given | {"image": given["image"] + 1}
    with torch.inference_mode():
        expected = model(**other)
        with kv_cache(model):
            model(**given)
            assert torch.equal(model(**other), expected)


def test_keys_are_computed_once_a_text() -> None:
    model, given = build(TINY), inputs(TINY)
    calls: list[Tensor] = []
    model.text_embedding.register_forward_hook(lambda *_: calls.append(given["text"]))
    model.blocks[0].cross_attn.k.register_forward_hook(lambda *_: calls.append(given["text"]))
    with torch.inference_mode(), kv_cache(model):
        for _ in range(3):
            model(**given | {"text": given["text"].clone()})
    assert len(calls) == 2
    with torch.inference_mode():
        model(**given)
    assert len(calls) == 4
