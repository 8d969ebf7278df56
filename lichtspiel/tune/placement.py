"""Which form of the model a run gets: the fastest whose peak fits into the memory that is free.

In this order: resident; resident with blocks that compute again; in eight bit; streamed from its file, with as many
blocks resident as fit. Peaks are predicted for the largest bucket (`peaks`). Knows no networks and loads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lichtspiel.inference.plan import MARGIN
from lichtspiel.spec import Model
from lichtspiel.tune.dataset import Bucket
from lichtspiel.tune.peaks import base_bytes, predict
from lichtspiel.tune.settings import Base, RunOptions

__all__ = ["Placement", "placed"]

FORMS: tuple[tuple[Base, bool], ...] = (("resident", False), ("resident", True), ("int8", True), ("streamed", True))
"""The forms of a model and whether blocks compute again, the fastest first."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The chosen form, its predicted peak in bytes, and why nothing fits, if nothing does."""

    base: Base
    checkpointing: bool
    resident: int
    peak: int
    free: int | None
    refusal: str | None = None

    def __str__(self) -> str:
        form = {"resident": "the model stays in memory", "int8": "the frozen model is kept in eight bit",
                "streamed": f"blocks are read from their file as they run, all but {self.resident}"}  # fmt: skip
        again = "; blocks compute again in the backward pass" if self.checkpointing else ""
        free = "unknown" if self.free is None else f"{self.free / 1e9:.1f} GB"
        return f"{form[self.base]}{again}; {self.peak / 1e9:.1f} GB at the peak, {free} free"


def placed(
    row: Model, buckets: Sequence[Bucket], options: RunOptions, free: int | None, *, automatic: bool
) -> Placement:
    """The fastest form that fits, or the one that the options name; with a refusal if it certainly does not fit."""
    largest = buckets[0]
    forms = FORMS if automatic else ((options.base, options.checkpointing),)
    if automatic and options.method == "full":
        forms = FORMS[:2]
    budget = None if free is None else int(MARGIN * free)
    placement: Placement | None = None
    for base, checkpointing in forms:
        chosen = replace(options, base=base, checkpointing=checkpointing)
        peak = predict(row, largest, chosen)
        placement = Placement(base=base, checkpointing=checkpointing, resident=0, peak=peak, free=free)
        if budget is None or peak <= budget:
            return _with_resident(placement, row, chosen, budget)
    assert placement is not None
    limit = placement.free if automatic or budget is None else free
    if limit is None or placement.peak <= limit:
        return placement
    why = (
        f"a step on {largest} needs {placement.peak / 1e9:.1f} GB, and {limit / 1e9:.1f} GB are free; take a smaller "
        "--size, fewer --frames, a smaller --batch or --rank"
    )
    return replace(placement, refusal=why + ("" if automatic else ", or leave out --base"))


def _with_resident(placement: Placement, row: Model, options: RunOptions, budget: int | None) -> Placement:
    """A streamed model with as many blocks in memory as there is room for."""
    if placement.base != "streamed" or budget is None:
        return placement
    block = base_bytes(row, options, 1) - base_bytes(row, options, 0)
    blocks = row.dit.layers + len(row.dit.vace_layers)
    resident = min(max((budget - placement.peak) // max(block, 1), 0), blocks - 1)
    return replace(placement, resident=resident, peak=placement.peak + resident * block)
