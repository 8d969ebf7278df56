"""Where Lichtspiel keeps what belongs to this installation: its signing keys, its record, and latents of its work.

The only environment variables that the package reads are here, and they are paths.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lichtspiel.errors import LichtspielError

__all__ = ["by_age", "home", "pulled"]


def home() -> Path:
    """The folder for what belongs to this installation: $LICHTSPIEL_HOME, else $XDG_DATA_HOME/lichtspiel, else
    ~/.local/share/lichtspiel. It need not exist yet."""
    if chosen := os.environ.get("LICHTSPIEL_HOME"):
        return Path(chosen).expanduser().absolute()
    shared = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(shared):  # the XDG rule: relative values are to be ignored
        return Path(shared) / "lichtspiel"
    try:
        return Path.home() / ".local" / "share" / "lichtspiel"
    except RuntimeError as error:
        raise LichtspielError("no home folder is known for this user; set LICHTSPIEL_HOME to a folder") from error


def pulled(repository: str) -> Path:
    """Where a checkpoint of the hub lies once it was pulled, by its repository, such as Wan-AI/Wan2.1-T2V-1.3B."""
    return home() / "weights" / repository.rpartition("/")[2]


def by_age(folder: Path) -> list[tuple[int, int, Path]]:
    """The safetensors files of a folder, oldest first, each with its time in nanoseconds and its size in bytes."""
    found = []
    for path in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process removes old ones, too
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    return sorted(found)
