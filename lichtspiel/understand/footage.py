"""A video as extractors see it, what they find, and what an extractor is.

This module knows reading; it knows no extractor. Times are seconds from the start of the file.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lichtspiel.errors import MediaError
from lichtspiel.media.picture import is_picture
from lichtspiel.media.scan import Scan, scan
from lichtspiel.media.sound import has_sound, read_sound
from lichtspiel.understand.finding import Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SOUND_RATE", "Extractor", "Finding", "Footage"]

SOUND_RATE = 16000
"""Samples per second of `Footage.sound`, as the networks that listen take them."""


class Extractor(Protocol):
    """Something that finds things in footage.

    `name` and `version` are stored with what it found; a new version means that files are looked at again.
    """

    name: str
    version: str

    def missing(self) -> str | None:
        """What has to be installed before it works, as a command, or None when it works."""
        ...

    def extract(self, footage: Footage) -> list[Finding]:
        """Everything that it finds, in the order of time."""
        ...


class Footage:
    """A video or picture that several extractors look at; its picture and its sound are each decoded once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @functools.cached_property
    def scan(self) -> Scan:
        """Thumbnails, stills and times. Raises MediaError."""
        return scan(self.path)

    @functools.cached_property
    def sound(self) -> NDArray[np.float32] | None:
        """The sound as one channel of `SOUND_RATE` samples per second; None when there is none. Raises MediaError."""
        if is_picture(self.path) or not has_sound(self.path):
            return None
        return read_sound(self.path, rate=SOUND_RATE)[:, 0]

    @functools.cached_property
    def shots(self) -> list[Finding]:
        """The shots, without gaps. Raises MediaError."""
        from lichtspiel.understand.shots import Shots

        found = Shots().extract(self)
        if not found:
            raise MediaError(f"{self.path}: holds no frame; export it again")
        return found
