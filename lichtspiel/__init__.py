"""Open video models of the Wan2.1 family that anyone can run, adapt and vouch for.

Importing this package loads no torch: the public names are fetched when they are first used. `__init__.pyi` beside this
file lists each of them once, with its home; type checkers read it, and so does this module.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    name: home
    for home, name in re.findall(
        r"^from (\S+) import (\w+) as \2$", Path(__file__).with_suffix(".pyi").read_text(encoding="ascii"), re.MULTILINE
    )
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  (names, read from the list)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lichtspiel' has no attribute {name!r}")
