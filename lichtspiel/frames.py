"""The array type of a picture, as every room of the package passes it on."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Frame"]

Frame: TypeAlias = npt.NDArray[np.uint8]
"""A picture or a frame of a video: uint8 [height, width, 3], RGB."""
