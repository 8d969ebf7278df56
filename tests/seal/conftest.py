"""What the tests of the seal share: an installation of their own, frames to encode and one sealed video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lichtspiel.seal import Provenance, Sealed, seal

PROMPT = "a small red fox walks left across a snowy meadow at dusk"
NEGATIVE = "blurry, watermark"


def frames(count: int = 9, height: int = 48, width: int = 64) -> Iterator[npt.NDArray[np.uint8]]:
    """A soft gradient with a square moving over it."""
    rows, columns = np.mgrid[0:height, 0:width]
    for number in range(count):
        frame = np.stack([columns * 150 // width + 50, rows * 150 // height + 50, 0 * rows + 90], -1).astype(np.uint8)
        frame[8:24, 8 + 2 * number : 24 + 2 * number] = (210, 180, 60)
        yield frame


def provenance(**changes: Any) -> Provenance:
    said: dict[str, Any] = {
        "model": "nano",
        "version": "0.1.0",
        "source_type": "trainedAlgorithmicMedia",
        "prompt": PROMPT,
        "negative": NEGATIVE,
        "parameters": {"seed": 7, "size": [64, 48], "guidance": 3.0, "solver": "euler"},
    }
    return Provenance(**{**said, **changes})


@pytest.fixture(scope="module", autouse=True)
def home(installation: Path) -> Iterator[Path]:
    """The shared installation, for the tests of one file: those of other rooms have homes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICHTSPIEL_HOME", str(installation))
        yield installation


@pytest.fixture(scope="session")
def sealed(installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICHTSPIEL_HOME", str(installation))
        return seal(frames(), provenance(), tmp_path_factory.mktemp("videos") / "fox.mp4", fps=16)


@pytest.fixture
def altered(sealed: Sealed, tmp_path: Path) -> Callable[[bytes, int], Path]:
    """A copy of the sealed video with one bit flipped, `offset` bytes after the first `landmark`."""

    def alter(landmark: bytes, offset: int) -> Path:
        content = bytearray(sealed.path.read_bytes())
        at = content.find(landmark)
        assert at >= 0
        content[at + offset] ^= 1
        path = tmp_path / "altered.mp4"
        path.write_bytes(content)
        return path

    return alter
