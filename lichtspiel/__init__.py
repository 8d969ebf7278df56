"""Open video models of the Wan2.1 family that anyone can run, adapt and vouch for.

Importing this package loads no torch: the public names are fetched when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lichtspiel.errors import LichtspielError
    from lichtspiel.inference.pipeline import Pipeline, load
    from lichtspiel.request import Request
    from lichtspiel.seal.verify import verify
    from lichtspiel.spec import MODELS
    from lichtspiel.workflows.generate import decode, generate

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "LichtspielError",
    "Pipeline",
    "Request",
    "__version__",
    "decode",
    "generate",
    "load",
    "verify",
]

_HOMES = {
    "MODELS": "spec",
    "LichtspielError": "errors",
    "Pipeline": "inference.pipeline",
    "Request": "request",
    "decode": "workflows.generate",
    "generate": "workflows.generate",
    "load": "inference.pipeline",
    "verify": "seal.verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"lichtspiel.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lichtspiel' has no attribute {name!r}")
