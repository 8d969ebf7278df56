"""LoRA files: read in any dialect, compared with a model, attached and removed, and written in another dialect."""

from __future__ import annotations

from lichtspiel.lora.adapter import Delta, Dialect, LoRA, Report, match
from lichtspiel.lora.apply import apply, remove
from lichtspiel.lora.read import read_lora
from lichtspiel.lora.write import carried, convert, write_lora

__all__ = [
    "Delta",
    "Dialect",
    "LoRA",
    "Report",
    "apply",
    "carried",
    "convert",
    "match",
    "read_lora",
    "remove",
    "write_lora",
]
