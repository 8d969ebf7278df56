"""What happens to videos on their way through the world, for the tests and the benchmark of the watermark.

Each attack takes frames and returns frames. Edits are followed by an ordinary encoding, because nobody passes raw
frames on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import av
import cv2
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
Attack = Callable[[Sequence[Frame]], list[Frame]]

_OPTIONS = {
    "libx264": {"preset": "medium", "threads": "1"},
    "libx265": {"preset": "medium", "x265-params": "log-level=none:pools=1:frame-threads=1:ctu=32"},
    "libvpx-vp9": {"b": "0", "cpu-used": "4", "threads": "1"},
}


def encoded(frames: Sequence[Frame], crf: int = 23, codec: str = "libx264") -> list[Frame]:
    """The frames as somebody sees them who gets them encoded. Odd sides lose a pixel."""
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=16, options={"crf": str(crf), **_OPTIONS[codec]})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def scaled(frames: Sequence[Frame], factor: float) -> list[Frame]:
    height, width = (max(round(side * factor), 2) for side in frames[0].shape[:2])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return [cv2.resize(frame, (width, height), interpolation=how) for frame in frames]


def cropped(frames: Sequence[Frame], share: float) -> list[Frame]:
    """Without `share` of the width and of the height, more of it from the upper left."""
    height, width = frames[0].shape[:2]
    top, left = round(height * share * 0.7), round(width * share * 0.6)
    bottom, right = top + round(height * (1 - share)), left + round(width * (1 - share))
    return [frame[top:bottom, left:right] for frame in frames]


def turned(frames: Sequence[Frame], degrees: float) -> list[Frame]:
    height, width = frames[0].shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return [cv2.warpAffine(frame, matrix, (width, height)) for frame in frames]


def brightened(frames: Sequence[Frame]) -> list[Frame]:
    return [cv2.convertScaleAbs(frame, alpha=1.15, beta=10) for frame in frames]


def blurred(frames: Sequence[Frame]) -> list[Frame]:
    sigma = min(frames[0].shape[:2]) / 480
    return [cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames]


def noisy(frames: Sequence[Frame]) -> list[Frame]:
    draw = np.random.default_rng(8)
    return [np.clip(frame + draw.normal(0, 8, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


def captioned(frames: Sequence[Frame]) -> list[Frame]:
    """With a bar over the lowest sixth and text in it."""
    result = []
    for frame in frames:
        height, width = frame.shape[:2]
        copy = frame.copy()
        copy[height - height // 6 :] = 16
        place = (width // 20, height - height // 20)
        cv2.putText(copy, "made with a model", place, cv2.FONT_HERSHEY_SIMPLEX, height / 480, (240, 240, 240))
        result.append(copy)
    return result


def photographed(frames: Sequence[Frame]) -> list[Frame]:
    """One single frame, as JPEG."""
    _, file = cv2.imencode(".jpg", frames[len(frames) // 2], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return [cv2.imdecode(file, cv2.IMREAD_COLOR)]


ATTACKS: dict[str, Attack] = {
    "nothing": list,
    "H.264 CRF 23": encoded,
    "H.264 CRF 28": lambda frames: encoded(frames, 28),
    "H.264 CRF 33": lambda frames: encoded(frames, 33),
    "H.265 CRF 28": lambda frames: encoded(frames, 28, "libx265"),
    "VP9 CRF 33": lambda frames: encoded(frames, 33, "libvpx-vp9"),
    "half size": lambda frames: encoded(scaled(frames, 0.5)),
    "half size at CRF 28": lambda frames: encoded(scaled(frames, 0.5), 28),
    "1.5 times the size": lambda frames: encoded(scaled(frames, 1.5)),
    "crop 10 %": lambda frames: encoded(cropped(frames, 0.1)),
    "crop 30 %": lambda frames: encoded(cropped(frames, 0.3)),
    "mirror": lambda frames: encoded([frame[:, ::-1] for frame in frames]),
    "1 degree turned": lambda frames: encoded(turned(frames, 1)),
    "1 of 3 frames dropped": lambda frames: encoded([frame for n, frame in enumerate(frames) if n % 3 or not n]),
    "brighter": lambda frames: encoded(brightened(frames)),
    "blur": lambda frames: encoded(blurred(frames)),
    "noise": lambda frames: encoded(noisy(frames)),
    "caption bar": lambda frames: encoded(captioned(frames)),
    "CRF 28 and then 30": lambda frames: encoded(encoded(frames, 28), 30),
    "one frame as JPEG": photographed,
}
