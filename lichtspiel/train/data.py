"""The data set interface: clips and pictures of one size, each with a caption and possibly a mask of its subject.

`lichtspiel/train/folder.py` reads such a data set from a person's own files, and `lichtspiel/train/nano/clips.py`
renders one. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Dataset", "Frames", "Shape", "Subset", "of_length"]

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Size of every clip in a data set: width and height in pixels, and frames."""

    width: int
    height: int
    frames: int


class Dataset(Protocol):
    """Items, numbered from 0. Every clip has the size and number of frames of `shape`; a picture has one frame."""

    @property
    def shape(self) -> Shape:
        """Size of every clip."""

    def __len__(self) -> int: ...

    def length(self, index: int) -> int:
        """Number of frames of an item: that of `shape`, or 1 for a picture."""

    def video(self, index: int) -> Frames:
        """The frames of an item, uint8 [t, h, w, 3], RGB."""

    def mask(self, index: int) -> Frames | None:
        """A mask of the subject, uint8 [t, h, w], nonzero on it, or None. Losses weight the subject more."""

    def text(self, index: int, generator: torch.Generator | None) -> str:
        """A caption of an item, drawn at random with `generator`; the plainest one without a generator."""


def of_length(data: Dataset, frames: int) -> Sequence[int]:
    """The numbers of all items with at least `frames` frames."""
    return [index for index in range(len(data)) if data.length(index) >= frames]


class Subset:
    """Some items of a data set, as a data set of their own."""

    def __init__(self, data: Dataset, items: Sequence[int]) -> None:
        self.data, self.items = data, items

    @property
    def shape(self) -> Shape:
        """Size of every clip."""
        return self.data.shape

    def __len__(self) -> int:
        return len(self.items)

    def length(self, index: int) -> int:
        """See `Dataset`."""
        return self.data.length(self.items[index])

    def video(self, index: int) -> Frames:
        """See `Dataset`."""
        return self.data.video(self.items[index])

    def mask(self, index: int) -> Frames | None:
        """See `Dataset`."""
        return self.data.mask(self.items[index])

    def text(self, index: int, generator: torch.Generator | None) -> str:
        """See `Dataset`."""
        return self.data.text(self.items[index], generator)
