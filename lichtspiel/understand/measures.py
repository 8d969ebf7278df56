"""What can be measured without a network: motion, sharpness, exposure, black and frozen parts, and sound levels.

Every measure is a number per shot, in the values of one finding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lichtspiel.understand.footage import SOUND_RATE, Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.frames import Frame
    from lichtspiel.understand.footage import Footage

__all__ = ["Levels", "Measures", "flow", "perceptual_hash", "reduced", "sharpness"]

_BLACK, _FLAT = 20.0, 6.0  # mean and deviation of the luminance, of 255, of a black frame
_STILL = 0.15  # mean difference of two frames, of 255, up to which nothing moved; noise of a codec is below it
_LUMA = (299, 587, 114)  # thousandths of red, green and blue (ITU-R BT.601); whole numbers add up alike everywhere
_SILENCE = -60.0  # dB of full scale
_FLOW_WIDTH = 96
_SIDE = 256  # pixels to which a picture's longer side is reduced before its sharpness is measured


class Measures:
    """Measures each shot's picture. One finding of the kind "measures" per shot.

    `motion` is the mean optical flow (DIS, Kroeger et al. 2016) in widths of the frame per second, `vectors` the
    codec's own motion vectors as shares of the diagonal per frame; `sharpness` the variance of the Laplacian at 256
    pixels; `brightness` and `contrast` mean and deviation of the luminance, and `clipped` the share of its pixels that
    are black or white; `black` and `frozen` are the shares of its frames that are so.
    """

    name = "measures"
    version = "1"

    def missing(self) -> str | None:
        """Nothing: OpenCV is a part of every installation."""
        return None

    def extract(self, footage: Footage) -> list[Finding]:
        """One finding per shot."""
        return [self._measure(footage, shot) for shot in footage.shots]

    def _measure(self, footage: Footage, shot: Finding) -> Finding:
        import numpy as np

        scan = footage.scan
        first, last = int(shot.values["first"]), int(shot.values["last"])
        luma = (scan.thumbs[first : last + 1].astype(np.int32) @ np.array(_LUMA, np.int32) / 1000).astype(np.float64)
        differences = np.abs(np.diff(luma, axis=0)).mean(axis=(1, 2))
        black = (luma.mean(axis=(1, 2)) < _BLACK) & (luma.std(axis=(1, 2)) < _FLAT)
        numbers = [n for n, frame in enumerate(scan.still_frames) if first <= frame <= last]
        stills = [scan.stills[n] for n in numbers]
        vectors = scan.motion[first : last + 1]
        values = {
            "motion": _motion(luma, scan.times[first : last + 1]),
            "vectors": float(np.nanmean(vectors)) if np.isfinite(vectors).any() else 0.0,
            "sharpness": float(np.median([sharpness(reduced(still)) for still in stills])) if stills else 0.0,
            "brightness": float(luma.mean()),
            "contrast": float(luma.std(axis=(1, 2)).mean()),
            "clipped": float(((luma < 4) | (luma > 251)).mean()),
            "black": float(black.mean()),
            "frozen": float((differences < _STILL).mean()) if len(differences) else 1.0,
        }
        return Finding(shot.start, shot.end, "measures", values=values)


class Levels:
    """Measures each shot's sound. One finding of the kind "levels" per shot that has sound.

    `level` and `peak` are decibels of full scale, and `silence` is the share of its time below -60.
    """

    name = "levels"
    version = "1"

    def missing(self) -> str | None:
        """Nothing."""
        return None

    def extract(self, footage: Footage) -> list[Finding]:
        """One finding per shot that has sound."""
        import numpy as np

        sound = footage.sound
        findings = []
        for shot in footage.shots if sound is not None else ():
            assert sound is not None
            part = sound[round(shot.start * SOUND_RATE) : round(shot.end * SOUND_RATE)].astype(np.float64)
            if not len(part):
                continue
            tenths = [_decibels(piece) for piece in np.array_split(part, max(len(part) // (SOUND_RATE // 10), 1))]
            values = {
                "level": _decibels(part),
                "peak": float(20 * np.log10(max(np.abs(part).max(), 1e-6))),
                "silence": float(np.mean(np.array(tenths) < _SILENCE)),
            }
            findings.append(Finding(shot.start, shot.end, "levels", values=values))
        return findings


def _decibels(samples: NDArray[np.float64]) -> float:
    import numpy as np

    return float(10 * np.log10(max(float((samples**2).mean()), 1e-12)))


def _motion(luma: NDArray[np.float64], times: NDArray[np.float64]) -> float:
    """The mean optical flow between frames, in widths per second, from at most sixteen pairs."""
    import numpy as np

    if len(luma) < 2:
        return 0.0
    speeds = []
    for start in np.unique(np.linspace(0, len(luma) - 2, 16).round().astype(int)):
        seconds = float(times[start + 1] - times[start])
        if seconds > 0:
            field = flow(luma[start], luma[start + 1])
            speeds.append(float(np.hypot(field[..., 0], field[..., 1]).mean()) / luma.shape[2] / seconds)
    return float(np.mean(speeds)) if speeds else 0.0


def flow(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float32]:
    """The optical flow [height, width, 2] between two pictures of luminance, in their own pixels."""
    import cv2
    import numpy as np

    height, width = first.shape
    factor = _FLOW_WIDTH / width
    size = (_FLOW_WIDTH, max(round(height * factor), 16))
    pair = [cv2.resize(np.asarray(one, np.float32), size).clip(0, 255).astype(np.uint8) for one in (first, second)]
    field = np.zeros((size[1], size[0], 2), np.float32)
    cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(pair[0], pair[1], field)
    large = cv2.resize(field, (width, height))
    return np.asarray(large * np.array([width / size[0], height / size[1]], np.float32), np.float32)


def reduced(frame: Frame) -> NDArray[np.uint8]:
    """A frame in gray, [height, width], with at most 256 pixels on its longer side."""
    import cv2
    import numpy as np

    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    factor = min(_SIDE / max(gray.shape), 1.0)
    return np.asarray(cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def sharpness(gray: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian of a picture in gray, as `reduced` makes it."""
    import cv2

    return float(cv2.Laplacian(gray, cv2.CV_64F).var())


def perceptual_hash(frame: Frame) -> bytes:
    """256 bits that stay nearly the same when a picture is encoded again, scaled or brightened.

    As PDQ (Facebook 2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm"): the lowest 16x16
    frequencies but the mean of the 64x64 luminance, each compared with their median.
    """
    import cv2
    import numpy as np

    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(cv2.GaussianBlur(gray, (0, 0), max(gray.shape) / 128), (64, 64), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[1:17, 1:17]
    return np.packbits(low > np.median(low)).tobytes()
