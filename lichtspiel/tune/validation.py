"""A loss that can be compared: on samples kept aside, at fixed times and with fixed noise, beside the base model's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from lichtspiel.tune.cache import Batch, Cache, Row
from lichtspiel.tune.trainer import Trainer

__all__ = ["TIMES", "base_loss", "validation_loss"]

TIMES = (0.2, 0.5, 0.8, 0.95)
"""From nearly clean to nearly noise: a mean over all would be decided by the noisiest alone, so the log has each."""


def validation_loss(trainer: Trainer, cache: Cache) -> dict[float, float]:
    """The mean loss on the samples that are kept aside, by time; empty if there are none.

    It is that of the average where the run keeps one, because that is what will be exported.
    """
    with trainer.averaged():
        return _losses(trainer, cache)


def base_loss(trainer: Trainer, cache: Cache) -> dict[float, float]:
    """The same of the base model. A model that is trained whole has it only before its first step."""
    adapter = trainer.adapter
    off: AbstractContextManager[None] = nullcontext() if adapter is None else adapter.disabled()
    with off:
        return _losses(trainer, cache)


def _losses(trainer: Trainer, cache: Cache) -> dict[float, float]:
    rows = cache.select(held_out=True)
    found: dict[float, float] = {}
    for time in TIMES if rows else ():
        total = 0.0
        for batch, generator in _singles(cache, rows):
            noise = torch.randn(batch.latents.shape, generator=generator)
            total += trainer.loss(batch, times=torch.full((1,), time), noise=noise)
        found[time] = total / len(rows)
    return found


def _singles(cache: Cache, rows: list[Row]) -> Iterator[tuple[Batch, torch.Generator]]:
    """Each sample with a generator of its own, so that others may join or leave without changing its noise."""
    for row in rows:
        seed = int.from_bytes(hashlib.sha256(row.key.encode()).digest()[:6], "big")
        yield cache.read([row]), torch.Generator().manual_seed(seed)
