"""New adapters from old ones and from checkpoints: joined, resized, and extracted from the difference of two models.

The best pair of a rank, in the sense of least squares, is the truncated singular value decomposition (Eckart and Young
1936). Layers are worked on one at a time, in float32. Nothing here reads or writes files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lichtspiel.errors import InvalidInput, WeightsError
from lichtspiel.lora.adapter import Delta, LoRA
from lichtspiel.lora.names import BARE

__all__ = ["Reduced", "extract", "join", "resize"]

EXACT = 2048
"""Matrices with at most this many rows or columns are decomposed in full; of larger ones, only what is kept."""

EXTRA = 16
"""Directions more than are kept that the randomized decomposition looks for (arXiv 0909.4061, section 4.2)."""


@dataclass(frozen=True)
class Reduced:
    """An adapter, and by layer the share of the squared change that it holds, 0 to 1."""

    lora: LoRA
    kept: Mapping[str, float]

    @property
    def least(self) -> float:
        """The smallest share of all layers."""
        return min(self.kept.values(), default=1.0)


def join(loras: Sequence[tuple[LoRA, float]]) -> LoRA:
    """One adapter that does what several do together, each with its strength; exact, and its ranks are their sums.

    Raises WeightsError for layers that belong to no model of the family, because they would be lost, and for DoRA,
    whose changes do not add up.
    """
    layers: dict[str, Delta] = {}
    for lora, strength in loras:
        if lost := (*lora.foreign, *lora.text_encoder):
            raise WeightsError(f"{lora.path} has {len(lost)} layers that would be lost, the first is {lost[0]}")
        for name, delta in lora.layers.items():
            if delta.magnitude is not None:
                raise WeightsError(f"{lora.path} holds DoRA, which cannot be joined with others; merge it into weights")
            scaled = _scaled(delta, strength)
            layers[name] = _sum(layers[name], scaled) if name in layers else scaled
    first = loras[0][0]
    sources = ", ".join(f"{lora.path.name}:{strength:g}" for lora, strength in loras)
    return replace(first, layers=layers, metadata={"lichtspiel.joined": sources})


def _scaled(delta: Delta, strength: float) -> Delta:
    matrices = delta.matrix(strength)
    return Delta(
        down=None if matrices is None else matrices[0],
        up=None if matrices is None else matrices[1],
        diff=None if delta.diff is None else delta.diff.float() * strength,
        bias=None if delta.bias is None else delta.bias.float() * strength,
    )


def _sum(one: Delta, other: Delta) -> Delta:
    def added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return b if a is None else a if b is None else a + b

    def beside(a: Tensor | None, b: Tensor | None, axis: int) -> Tensor | None:
        return b if a is None else a if b is None else torch.cat([a, b], dim=axis)

    return Delta(
        down=beside(one.down, other.down, 0), up=beside(one.up, other.up, 1),
        diff=added(one.diff, other.diff), bias=added(one.bias, other.bias),
    )  # fmt: skip


def resize(lora: LoRA, *, rank: int | None = None, share: float | None = None) -> Reduced:
    """The adapter with pairs of a lower rank: of `rank`, or of the lowest that holds `share` of the squared change.

    Pairs whose rank is lower already stay as they are. Raises InvalidInput unless exactly one of the two is given.
    """
    _check(rank, share)
    layers: dict[str, Delta] = {}
    kept: dict[str, float] = {}
    for name, delta in lora.layers.items():
        matrices = delta.matrix(1.0)
        if delta.magnitude is not None:
            raise WeightsError(f"{lora.path} holds DoRA, whose pairs depend on their weights; merge it into weights")
        if matrices is None:
            layers[name] = delta
            continue
        down, up = matrices
        # The decomposition of a product of two thin matrices needs only small ones: (Q1 R1)(Q2 R2)' = Q1 (R1 R2') Q2'.
        q1, r1 = torch.linalg.qr(up)
        q2, r2 = torch.linalg.qr(down.T)
        u, s, v = torch.linalg.svd(r1 @ r2.T)
        count, held = _count(s, float(s.square().sum()), rank, share)
        kept[name] = held
        root = s[:count].sqrt()
        layers[name] = replace(
            delta, down=root[:, None] * (v[:count] @ q2.T), up=(q1 @ u[:, :count]) * root, alpha=float(count)
        )
    return Reduced(replace(lora, layers=layers), kept)


def extract(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], *, rank: int | None = None, share: float | None = None
) -> Reduced:
    """The adapter that turns one model into another, from the weights of both by their names; each is read once.

    Matrices become pairs of `rank`, or of the lowest rank that holds `share` of the squared change. Everything else
    that differs becomes a difference. Raises WeightsError if nothing differs.
    """
    _check(rank, share)
    parts: dict[str, dict[str, Tensor | float]] = {}
    kept: dict[str, float] = {}
    for name, change in _changes(base, tuned):
        layer, _, last = name.rpartition(".")
        if last == "weight" and change.ndim == 2:
            up, down, held = _pair(change, rank, share)
            parts.setdefault(layer, {}).update(up=up, down=down, alpha=float(len(down)))
            kept[layer] = held
        elif last == "bias":
            parts.setdefault(layer, {})["bias"] = change
        else:
            parts.setdefault(name if name.endswith(BARE) else layer, {})["diff"] = change
    if not parts:
        raise WeightsError("the two models have the same weights, so there is nothing to extract")
    layers = {name: Delta(**fields) for name, fields in parts.items()}  # type: ignore[arg-type]
    lora = LoRA(
        path=Path("extracted.safetensors"), dialect="comfy", layers=layers, foreign=(), text_encoder=(), metadata={}
    )  # fmt: skip
    return Reduced(lora, kept)


def _changes(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name in base:
        change = tuned[name].float() - base[name].float()
        if bool(change.any()):
            yield name, change


def _pair(change: Tensor, rank: int | None, share: float | None) -> tuple[Tensor, Tensor, float]:
    """The best pair for a change [out, in], and the share of it that the pair holds."""
    total = float(change.square().sum())
    if share is None and rank is not None and min(change.shape) > max(EXACT, rank + EXTRA):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same result in every run
            u, s, v = torch.svd_lowrank(change, q=rank + EXTRA, niter=4)
        v = v.T
    else:
        u, s, v = torch.linalg.svd(change, full_matrices=False)
    count, held = _count(s, total, rank, share)
    root = s[:count].sqrt()
    return (u[:, :count] * root).contiguous(), (root[:, None] * v[:count]).contiguous(), held


def _count(values: Tensor, total: float, rank: int | None, share: float | None) -> tuple[int, float]:
    """How many singular values are kept, and the share of their squares' total that these hold."""
    held = values.double().square().cumsum(0) / max(total, torch.finfo(torch.float32).tiny)
    count = len(values) if rank is None else min(rank, len(values))
    if share is not None:
        count = min(int((held < share).sum()) + 1, len(values))
    return count, min(float(held[count - 1]), 1.0)


def _check(rank: int | None, share: float | None) -> None:
    if (rank is None) == (share is None):
        raise InvalidInput("name either --rank or --keep")
    if rank is not None and rank < 1:
        raise InvalidInput(f"--rank {rank} is not valid; use a whole number from 1")
    if share is not None and not 0 < share <= 1:
        raise InvalidInput(f"--keep {share:g} is not valid; use a share above 0 and up to 1, such as 0.95")
