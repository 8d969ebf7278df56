"""From a decoded video frame to RGB of BT.709, also where the frame is HDR, as telephones record it.

HDR video, whose signal is PQ or HLG (ITU-R BT.2100) with the primaries of BT.2020, would turn gray if it was taken for
BT.709. It is converted by method C of report ITU-R BT.2446-1, for a screen of 1,000 cd/m²: what is up to the brightness
of a sheet of paper keeps its look, and what is brighter is compressed, until it is clipped from 332 cd/m² on. FFmpeg
applies the conversion, which is computed here, as a table.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av
    import numpy as np
    from av.filter import Graph
    from numpy.typing import NDArray

    from lichtspiel.frames import Frame

__all__ = ["ToRGB", "to_sdr"]

TRANSFERS = {16: "PQ", 18: "HLG"}
"""The transfer characteristics (ITU-T H.273) of HDR video."""

_BT2020_NCL = 9  # matrix coefficients of ITU-T H.273
_UNKNOWN = 2
_GRID = 33  # steps of the table in each direction, as many as are usual for tables of colors

_PEAK = 1000.0  # cd/m², of the screen for which HDR video is made
_WHITE = 100.0  # cd/m², of a screen for BT.709
_GAMMA = 2.4  # of such a screen (ITU-R BT.1886)
_LUMINANCE = (0.2627, 0.6780, 0.0593)  # of the primaries of BT.2020
_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))  # ITU-R BT.2087-0
_SLOPE, _SHOULDER, _TURN, _OFFSET = 0.83802, 15.09968, 0.74204, 78.99439  # k1 to k4 of ITU-R BT.2446-1, 6.1.4
_INFLECTION = 58.5 / _SLOPE  # cd/m², from which on the curve is a logarithm


class ToRGB:
    """Converts the frames of one video, which a decoder or a filter yields, to uint8 arrays [height, width, 3]."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._made_for: tuple[object, ...] = ()

    def __call__(self, frame: av.VideoFrame, width: int, height: int, interpolation: Any = None) -> Frame:
        """The frame as `width` x `height` pixels, not yet turned upright. `interpolation` is PyAV's, for frames that
        are not HDR; those that are HDR are averaged where they are reduced."""
        import numpy as np

        pixels: Any
        if int(frame.color_trc) not in TRANSFERS:
            pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=interpolation)
            return np.asarray(pixels)
        if int(frame.colorspace) == _UNKNOWN:
            frame.colorspace = _BT2020_NCL
        key = (frame.width, frame.height, frame.format.name, frame.color_trc, width, height)
        if self._graph is None or self._made_for != key:
            self._graph, self._made_for = _graph(frame, width, height), key
        self._graph.push(frame)
        pixels = self._graph.pull().to_ndarray()
        return np.asarray(pixels)


def _graph(frame: av.VideoFrame, width: int, height: int) -> Graph:
    """Filters that scale frames like this one, and convert them to BT.709."""
    from av.filter import Graph

    graph = Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "sdr.cube")
        table.write_text(_cube(TRANSFERS[int(frame.color_trc)]), encoding="ascii")
        for name, options in (
            ("scale", {"width": width, "height": height, "flags": "area+accurate_rnd"}),
            ("format", {"pix_fmts": "gbrp12"}),
            ("lut3d", {"file": table, "interp": "tetrahedral"}),
            ("format", {"pix_fmts": "rgb24"}),
            ("buffersink", {}),
        ):
            added = graph.add(name, **{option: str(value) for option, value in options.items()})
            last.link_to(added)
            last = added
        graph.configure()
    return graph


def _cube(transfer: str) -> str:
    """The conversion as a table in the format of Adobe's Cube LUT specification 1.0, red fastest."""
    import numpy as np

    steps = np.linspace(0, 1, _GRID)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    table = to_sdr(np.stack([red, green, blue], axis=-1).reshape(-1, 3), transfer)
    return f"LUT_3D_SIZE {_GRID}\n" + "\n".join(f"{r:.6f} {g:.6f} {b:.6f}" for r, g, b in table)


def to_sdr(signal: NDArray[np.float64], transfer: str) -> NDArray[np.float64]:
    """R'G'B' of BT.2020 in PQ or HLG as R'G'B' of BT.709, both [n, 3] from 0 to 1. `transfer` is "PQ" or "HLG"."""
    import numpy as np

    weights = np.array(_LUMINANCE)
    light = _pq(signal) if transfer == "PQ" else _hlg(signal, weights)
    luminance = np.maximum(light @ weights, 1e-6)[:, None]
    logarithm = _SHOULDER * np.log(np.maximum(luminance / _INFLECTION - _TURN, 1e-6)) + _OFFSET
    compressed = np.where(luminance < _INFLECTION, _SLOPE * luminance, logarithm)
    linear = light * (compressed / luminance / _WHITE) @ np.array(_TO_BT709).T
    result: NDArray[np.float64] = np.clip(linear, 0, 1) ** (1 / _GAMMA)
    return result


def _pq(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light in cd/m² (ITU-R BT.2100, table 4)."""
    import numpy as np

    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    light: NDArray[np.float64] = 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return light


def _hlg(signal: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light in cd/m² of a screen of `_PEAK`, whose system gamma is 1.2 (ITU-R BT.2100, table 5)."""
    import numpy as np

    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    light: NDArray[np.float64] = _PEAK * (scene @ weights)[:, None] ** 0.2 * scene
    return light
