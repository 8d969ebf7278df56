"""HDR video, as telephones record it, is read with the look that it has on a screen for SDR."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lichtspiel.media.scan import scan
from lichtspiel.media.video import read_video, sample_video

# The primaries of BT.2020 and BT.709 as chromaticities, and their white, from which the matrices follow.
WIDE = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
NARROW = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
D65 = (0.3127, 0.3290)


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    return columns * np.linalg.solve(columns, white)


def pq(light: Any) -> Any:
    """SMPTE ST 2084, from light in cd/m² to the signal."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = (np.asarray(light) / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def hlg(light: Any) -> Any:
    """The signal that shows light of these cd/m² on a screen of 1,000 (ITU-R BT.2100)."""
    shown = np.asarray(light) / 1000
    luminance = np.maximum(shown @ to_xyz(WIDE)[1], 1e-9)
    scene = shown * luminance[..., None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


SIGNALS = {"PQ": (16, pq), "HLG": (18, hlg)}


def write_hdr(path: Path, transfer: str, light: list[tuple[float, float, float]], matrix: int = 9) -> Path:
    """Two frames of 10 bits with a patch of 32x32 pixels for each light, which is RGB of BT.2020 in cd/m²."""
    number, signal = SIGNALS[transfer]
    red, green, blue = np.asarray(signal(light)).T
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 32 * len(light), 32, "yuv420p10le"
        context: Any = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = number, 9, matrix, 1
        frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
        for plane, codes, side in zip(frame.planes, planes, (32, 16, 16), strict=True):
            row = np.repeat(codes.round().astype(np.uint16), side)
            rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
            rows[:, : row.size] = row
            plane.update(rows.tobytes())
        for _ in range(2):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def patches(frame: NDArray[np.uint8]) -> NDArray[np.int64]:
    return frame[16, 16::32].astype(np.int64)


@pytest.mark.parametrize("transfer", SIGNALS)
def test_grays_keep_their_look_up_to_white_paper(transfer: str, tmp_path: Path) -> None:
    lights = [0, 1, 5, 20, 50, 100, 203, 332, 600]
    shown = patches(next(read_video(write_hdr(tmp_path / "gray.mp4", transfer, [(y, y, y) for y in lights]))))
    assert np.ptp(shown, axis=1).max() <= 1
    # On a screen of 100 cd/m² with gamma 2.4; BT.2446-1 leaves 83.802 % of the light up to 69.8 cd/m².
    below = [255 * (0.83802 * y / 100) ** (1 / 2.4) for y in lights[:5]]
    np.testing.assert_allclose(shown[:5, 0], below, atol=2)
    assert all(one < other for one, other in pairwise(shown[:8, 0]))
    assert shown[6, 0] == pytest.approx(245, abs=2)  # white paper: 0.907 of the light, not gray (146 if PQ was ignored)
    assert shown[7:, 0].tolist() == [255, 255]


@pytest.mark.parametrize("matrix", [9, 2])
@pytest.mark.parametrize("transfer", SIGNALS)
def test_colors_of_bt709_are_those_of_bt709(transfer: str, matrix: int, tmp_path: Path) -> None:
    """Where the matrix is not declared (2), it is that of BT.2020, as is always so with these signals."""
    colors = np.array([(60, 0, 0), (0, 60, 0), (0, 0, 60), (60, 60, 0), (40, 20, 10)])
    wide = np.linalg.solve(to_xyz(WIDE), to_xyz(NARROW)) @ colors.T
    path = write_hdr(tmp_path / "colors.mp4", transfer, [tuple(row) for row in wide.T], matrix)
    shown = 100 * (patches(next(read_video(path))) / 255) ** 2.4  # in cd/m², on a screen of 100
    np.testing.assert_allclose(shown, 0.83802 * colors, atol=1)


def test_every_reader_shows_the_same(tmp_path: Path) -> None:
    path = write_hdr(tmp_path / "gray.mp4", "HLG", [(y, y, y) for y in (10, 50, 203)])
    whole = patches(next(read_video(path)))
    assert (patches(next(sample_video(path, 2))) == whole).all()
    found = scan(path)
    assert np.abs(patches(found.stills[0]) - whole).max() <= 1
    assert np.abs(found.thumbs[0][13, 8::16].astype(int) - whole).max() <= 2
    assert next(sample_video(path, 1, 32 * 32)).shape[0] < 32
