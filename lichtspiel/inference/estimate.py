"""Plans for a job that need no request: for this machine, or for a GPU that is not here."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from lichtspiel.errors import RequestError
from lichtspiel.host import free_memory, measure_rate
from lichtspiel.inference.cards import Card
from lichtspiel.inference.device import choose_device, choose_precision, exact_dtype, weight_dtype
from lichtspiel.inference.plan import Plan, plan
from lichtspiel.spec import Model, Part
from lichtspiel.weights.checkpoint import Files, checkpoint

__all__ = ["estimate", "plan_for"]


def estimate(
    row: Model, size: tuple[int, int], frames: int, *,
    device: str, dtype: str, gigabytes: float | None = None, card: Card | None = None, weights: Files = None,
) -> Plan:  # fmt: skip
    """Plan a job, with times based on the measured speed of this machine or on the figures of a `card`.

    `gigabytes` replaces the memory that is currently free; with it, `device` may be one that this machine lacks. With
    `weights`, the plan uses the actual sizes of the files. Raises RequestError for a precision that the device or the
    `card` has not.
    """
    files = checkpoint(row, weights) if weights or row.embedded else None
    row, sizes = (files.model, files.sizes()) if files else (row, None)
    free = None if gigabytes is None else int(gigabytes * 1e9)
    if card is not None:
        place, free = torch.device("cuda"), card.free if free is None else free
        precision = choose_precision(dtype, place, here=False)
        if precision == "fp8" and not card.fp8:
            raise RequestError("dtype", "fp8", f"the {card.name} has no units for it", "bfloat16")
        made = plan_for(row, size, frames, place, precision, sizes=sizes, free=free, rates=card.rates)
        return replace(made, device=card.name)
    try:
        place, here = choose_device(device), True
    except RequestError:
        if gigabytes is None or not re.fullmatch(r"cuda(:\d+)?|mps", device):
            raise
        place, here = torch.device(device), False  # planned for before it is rented: without times
    precision = choose_precision(dtype, place, here=here)
    rates = None
    if here:
        single = measure_rate(str(place), torch.float32)
        exact = exact_dtype(precision)
        rates = single if exact == torch.float32 else measure_rate(str(place), exact), single
    return plan_for(row, size, frames, place, precision, sizes=sizes, free=free, rates=rates)


def plan_for(
    row: Model, size: tuple[int, int], frames: int, device: torch.device, precision: str, *,
    sizes: dict[Part, int] | None, free: int | None = None, rates: tuple[float, float] | None = None,
) -> Plan:  # fmt: skip
    """Plan a job in a precision, for what is free on the device now or for `free` bytes."""
    return plan(
        row, size=size, frames=frames, device=str(device), dtype=weight_dtype(precision),
        free_bytes=free_memory(str(device)) if free is None else free, files_bytes=sizes, rates=rates,
    )  # fmt: skip
