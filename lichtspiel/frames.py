"""The array type of pictures and video frames that the whole package uses."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Frame"]

Frame: TypeAlias = npt.NDArray[np.uint8]
"""A picture or video frame: uint8 [height, width, 3], RGB."""
