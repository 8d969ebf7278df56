"""The types of a request's fields: what is accepted as text, because forms and command lines send nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from lichtspiel.errors import RequestError

__all__ = ["Adapter", "GuidanceKind", "Pace", "Precision", "Size", "number", "numbers", "several"]


def _size(value: object) -> object:
    """Accept "832x480" as well as a pair of numbers."""
    if isinstance(value, str):
        width, cross, height = value.lower().replace("*", "x").partition("x")
        if not (cross and width.strip().isdigit() and height.strip().isdigit()):
            raise RequestError("size", value, "a size is WIDTHxHEIGHT in pixels, for example 832x480")
        return int(width), int(height)
    return value


def number(value: object) -> object:
    """Accept "2" for a choice of numbers, because forms and command lines send text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def numbers(value: Any) -> Any:
    """Accept one number or a text of numbers where several are allowed, because forms send "7,8"."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return (value,) if isinstance(value, int | float) else value


def several(value: Any) -> Any:
    """Accept a single value where several are allowed."""
    return (value,) if isinstance(value, str | Path | Mapping) else value


def _adapter(value: object) -> object:
    """Accept "FILE" and "FILE:0.8" as well as an object; a colon without a number after it is part of the name."""
    if not isinstance(value, str | Path):
        return value
    path, _, number = str(value).rpartition(":")
    try:
        return {"path": path, "strength": float(number)} if path else {"path": value}
    except ValueError:
        return {"path": value}


class _Adapter(BaseModel):
    """A LoRA file and how strongly it counts: 1 as it was trained, less, more, or negative to steer away."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    strength: float = Field(default=1.0, allow_inf_nan=False)


Adapter = Annotated[_Adapter, BeforeValidator(_adapter)]
Size = Annotated[
    tuple[int, int], BeforeValidator(_size), WithJsonSchema({"type": "string", "pattern": r"^\d+x\d+$"}),
]  # fmt: skip
Pace = Literal["whole", "real", "each"]
GuidanceKind = Literal["cfg", "cfg-zero", "apg"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8", "fp8"]
