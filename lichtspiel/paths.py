"""Where Lichtspiel keeps what belongs to this installation: its signing key, latents of unfinished work.

The only environment variables read anywhere in the package are paths: LICHTSPIEL_HOME and XDG_DATA_HOME.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["home"]


def home() -> Path:
    """The data folder: LICHTSPIEL_HOME, else `lichtspiel` in XDG_DATA_HOME, else in ~/.local/share. Not created."""
    chosen = os.environ.get("LICHTSPIEL_HOME")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "lichtspiel"
