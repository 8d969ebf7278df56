"""The LoRAs of a request: read, and compared with the model before anything loads."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lichtspiel.lora import LoRA, match, read_lora
from lichtspiel.request import Request
from lichtspiel.spec import Model

__all__ = ["Adapters", "read_adapters"]


class Adapters(NamedTuple):
    """LoRAs with their strengths, and how each matches."""

    loras: list[tuple[LoRA, float]]
    notes: list[str]

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [lora.path for lora, _ in self.loras]


def read_adapters(request: Request, row: Model) -> Adapters:
    """Read the LoRAs of a request. Raises WeightsError for one that cannot be read, or that does not match the model
    as far as the request asks for."""
    loras = [(read_lora(adapter.path), adapter.strength) for adapter in request.lora]
    reports = [match(lora, row) for lora, _ in loras]
    for report in reports:
        report.check(partial=request.lora_partial)
    return Adapters(loras, [*map(str, reports)])
