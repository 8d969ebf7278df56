"""LoRA files: read in any dialect, compared with a model, attached and removed, and written in another dialect."""

from __future__ import annotations

from lichtspiel.lora.adapter import Delta, Dialect, LoRA, Report, match
from lichtspiel.lora.apply import apply, merged, prepare, remove
from lichtspiel.lora.dora import row_lengths
from lichtspiel.lora.read import read_lora
from lichtspiel.lora.reduce import Reduced, extract, join, resize
from lichtspiel.lora.write import carried, convert, write_lora

__all__ = [
    "Delta",
    "Dialect",
    "LoRA",
    "Reduced",
    "Report",
    "apply",
    "carried",
    "convert",
    "extract",
    "join",
    "match",
    "merged",
    "prepare",
    "read_lora",
    "remove",
    "resize",
    "row_lengths",
    "write_lora",
]
