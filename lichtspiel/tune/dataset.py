"""What a model is tuned on: clips and pictures with captions, and the stretches of frames that are cut from them.

Pure data. `scan` finds items in a person's folder, `samples` cuts them into samples of a bucket, `encode` runs the
VAE and the text encoder over them, and `cache` reads what those left on disk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Bucket", "Cut", "DataOptions", "Extraction", "Finding", "Item", "Sample"]

Extraction = Literal["whole", "start", "windows", "evenly"]
"""How frames are taken from a clip: all of them, its first ones, consecutive windows, or windows spread evenly."""


@dataclass(frozen=True, kw_only=True, order=True)
class Bucket:
    """The shape of a sample: width and height in pixels, and frames. Batches never mix buckets."""

    width: int
    height: int
    frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"

    @property
    def pixels(self) -> int:
        """Pixels of all frames together, which is what memory and time grow with."""
        return self.width * self.height * self.frames


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How an item becomes samples.

    `sizes` are the allowed (width, height) of a frame; the one with the nearest aspect ratio is taken, and the frames
    are scaled to cover it and cropped around the center. Without `enlarge`, clips that are smaller keep their size.
    `lengths` are the allowed numbers of frames at the model's frame rate, each 4n+1; of those, the longest that the
    clip fills is taken, except with "whole", which takes the longest 4n+1 up to the largest of `lengths`. "windows"
    begin every `stride` frames (None: one after the other), and "evenly" takes `count` of them. `fps` replaces the
    frame rate that a file states.
    """

    sizes: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    extraction: Extraction = "start"
    stride: int | None = None
    count: int = 1
    fps: float | None = None
    enlarge: bool = True


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What a person asks of the data as a whole; files that describe a data set may say otherwise for their items.

    `size` gives the area of a frame, and `frames` the lengths; None is what the model is tuned at by default. Every
    `trigger` word is put before the captions that do not have it. `held_out` is how many items are kept for validation
    (None: one in ten, at most 16, none of fewer than 8). `consent` states who is shown and that they agreed.
    """

    size: tuple[int, int] | None = None
    frames: tuple[int, ...] | None = None
    extraction: Extraction = "start"
    stride: int | None = None
    count: int = 1
    repeats: int = 1
    triggers: tuple[str, ...] = ()
    held_out: int | None = None
    consent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Item:
    """One clip or picture that the model shall learn to make, with its caption.

    `path` is a video, a picture, or a folder of pictures. For VACE, `control` is the video that the model sees (None:
    the clip itself, gray where the mask is white), `mask` says what is new (white), and `references` are pictures of
    the subject. `weight` is a video or picture of how much each pixel counts in the loss, from black (not at all) to
    white. An item is seen `repeats` times in an epoch. `source` is where it was found, such as "metadata.jsonl, line
    3", for messages.
    """

    path: Path
    caption: str
    source: str
    cut: Cut
    control: Path | None = None
    mask: Path | None = None
    references: tuple[Path, ...] = ()
    weight: Path | None = None
    repeats: int = 1

    @property
    def files(self) -> dict[str, Path]:
        """All files of the item, by what they are."""
        named = {"clip": self.path, "control": self.control, "mask": self.mask, "weight": self.weight}
        numbered = {f"reference {number}": path for number, path in enumerate(self.references, 1)}
        return {name: path for name, path in (named | numbered).items() if path is not None}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One stretch of an item as the model sees it: `bucket.frames` frames from the frame `start` on, counted at the
    model's frame rate. `digest` is that of the bytes of the item's files. With `held_out`, it is for validation only.
    """

    item: Item
    bucket: Bucket
    start: int
    digest: str
    held_out: bool = False

    @property
    def key(self) -> str:
        """Names the sample in a cache: another file, size, stretch, rate or role gives another key."""
        parts = (self.digest, str(self.bucket), self.start, self.item.cut.fps, sorted(self.item.files))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about the data that a person should know: the file, and what is wrong and helps. With `refused`, the
    run does not start before it is mended."""

    path: Path
    message: str
    refused: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"
