"""OpenCV's functions on pixels that this room uses, with the types of what they return."""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Bytes", "Floats", "Mask", "gray_of", "lab_of", "pull", "shrunk", "widened"]

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]


def gray_of(frame: Bytes) -> Bytes:
    """RGB [h, w, 3] to gray levels [h, w]."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def lab_of(frame: Bytes) -> Bytes:
    """RGB to Lab, [h, w, 3]; each channel has 8 bits, and gray is 128 in the last two."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2LAB), np.uint8)


def pull(picture: NDArray[Any], source: Floats, *, edge: int = cv2.BORDER_CONSTANT) -> Floats:
    """A picture whose pixels come from the places `source` [h, w, 2] (x, y) of another one, as float32."""
    nothing: Any = None
    return np.asarray(cv2.remap(picture, source, nothing, cv2.INTER_LINEAR, borderMode=edge), np.float32)


def shrunk(frame: Bytes, width: int, height: int) -> Bytes:
    """A frame at a smaller size."""
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def widened(mask: NDArray[Any], size: int) -> Mask:
    """A mask and everything less than half of `size` pixels away from it."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)), bool)
