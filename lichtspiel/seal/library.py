"""Load the C2PA library from its own package and from nowhere else.

`import c2pa` looks for its native library in the working directory first, so a malicious file next to a stranger's
video would run with the rights of whoever checks that video. No other module imports `c2pa`.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["load"]

_LOADING = threading.Lock()


def load() -> Any:
    """The module `c2pa`; the first call imports it without looking at the working directory, which may be gone."""
    with _LOADING:
        if "c2pa" not in sys.modules:
            _confine()
        import c2pa
    return c2pa


def _confine() -> None:
    """Load `c2pa.lib`, which `c2pa` asks for its native part while it is imported, and let it look in the package."""
    package = importlib.util.find_spec("c2pa")
    if package is None or package.origin is None:
        return  # the import itself says that it is missing
    folder = Path(package.origin).parent
    spec = importlib.util.spec_from_file_location("c2pa.lib", folder / "lib.py")
    assert spec is not None
    assert spec.loader is not None
    lib = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lib)
    if not hasattr(lib, "_get_possible_search_paths"):
        raise ImportError("this release of c2pa-python looks for its library in a way that is not known here")
    lib.__dict__["_get_possible_search_paths"] = lambda: [folder, folder / "libs"]
    sys.modules["c2pa.lib"] = lib
