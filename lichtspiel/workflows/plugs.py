"""Networks whose ONNX files the user has, in place of what comes with the package or beside it: they cut out objects,
see depth, and find people.

Files are run by onnxruntime on the processor. What a file takes and gives is read from it, and checked before the work.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lichtspiel.errors import InvalidInput, MediaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lichtspiel.footage.pixels import Mask
    from lichtspiel.footage.segment import Segmenter
    from lichtspiel.footage.selection import Selection
    from lichtspiel.frames import Frame

__all__ = ["depth_film", "open_onnx", "pose_film", "segmenter_of"]

_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which most networks see normalized by
_DEPTH_SIDE, _POSE_SIDE, _SEGMENT_SIDE = 518, 640, 1024  # where a file leaves it open: what the originals use
_SURE, _SAME = 0.25, 0.45  # a person's confidence, and the overlap of two boxes from which they are one person


def open_onnx(path: Path) -> Any:
    """An ONNX file, open to be run. Raises InvalidInput without onnxruntime, and MediaError for another file."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise InvalidInput(f"{path}: running it needs onnxruntime: pip install onnxruntime")
    import onnxruntime

    if not path.is_file():
        raise MediaError(f"{path}: is not a file; name the ONNX file of a network")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, which are no subclasses of each other
        raise MediaError(f"{path}: is no ONNX file that can be run: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class _Network:
    """An ONNX file that is open, and the size of the picture that it takes."""

    path: Path
    session: Any
    side: tuple[int, int]

    @classmethod
    def open(cls, path: Path, side: int) -> _Network:
        """Open a file. `side` is the picture's size if the file leaves it open. Raises InvalidInput and MediaError."""
        session = open_onnx(path)
        shape = session.get_inputs()[0].shape
        if len(shape) != 4 or shape[1] != 3:
            raise MediaError(f"{path}: takes {shape} first; a network for pictures takes [1, 3, height, width]")
        height, width = (side if not isinstance(extent, int) else extent for extent in shape[2:])
        return cls(path, session, (width, height))

    def run(self, given: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
        """The outputs by their names."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, given), strict=True))

    def picture(self, frame: Frame, *, normalized: bool) -> dict[str, Any]:
        """The picture as the first input takes it, at its size."""
        values = frame.astype(np.float32) / 255
        if normalized:
            values = (values - np.array(_MEAN, np.float32)) / np.array(_SPREAD, np.float32)
        return {self.session.get_inputs()[0].name: np.ascontiguousarray(values.transpose(2, 0, 1)[None])}


def depth_film(frames: Sequence[Frame], file: Path) -> Iterator[Frame]:
    """The depth of each frame as gray levels, white is near, from a network such as Depth Anything that gives
    [1, h, w], larger where it is nearer. Levels are the same for the whole clip, so that nothing flickers."""
    from lichtspiel.footage.stitch import scaled

    network, maps = _Network.open(file, _DEPTH_SIDE), list[Any]()
    for frame in frames:
        (found, *_) = network.run(network.picture(scaled(frame, network.side), normalized=True)).values()
        depth = np.squeeze(found)
        if depth.ndim != 2:
            raise MediaError(f"{file}: gives {list(found.shape)}; a network for depth gives [1, height, width]")
        maps.append(depth.astype(np.float16))
    low, high = np.percentile(np.stack([depth[::4, ::4] for depth in maps]).astype(np.float32), (1, 99))
    for frame, depth in zip(frames, maps, strict=True):
        level = np.clip((depth.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
        gray = np.repeat(level[..., None].astype(np.uint8), 3, axis=2)
        yield scaled(gray, (frame.shape[1], frame.shape[0]))


def pose_film(frames: Sequence[Frame], file: Path) -> Iterator[Frame]:
    """People as skeletons on black, from a network such as YOLO's for poses that gives [1, 56, n]: box, confidence, and
    x, y and confidence of 17 joints for each of n places."""
    from lichtspiel.footage.skeleton import JOINTS, drawn_people
    from lichtspiel.footage.stitch import scaled

    network = _Network.open(file, _POSE_SIDE)
    for frame in frames:
        height, width, _ = frame.shape
        (found, *_) = network.run(network.picture(scaled(frame, network.side), normalized=False)).values()
        if found.ndim != 3 or found.shape[1] != 5 + 3 * JOINTS:
            raise MediaError(f"{file}: gives {list(found.shape)}; a network for poses gives [1, {5 + 3 * JOINTS}, n]")
        people = []
        for person in _distinct(found[0].T):
            joints = person[5:].reshape(JOINTS, 3).astype(np.float32)
            joints[:, :2] *= (width / network.side[0], height / network.side[1])
            people.append(joints)
        yield drawn_people((width, height), people)


def _distinct(found: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The surest of the places that show the same person; each begins with x, y, width, height and confidence."""
    kept: list[NDArray[np.float32]] = []
    for one in sorted(found[found[:, 4] >= _SURE], key=lambda place: -place[4]):
        if all(_overlap(one, other) < _SAME for other in kept):
            kept.append(one)
    return kept


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes given by center and size."""
    low = np.maximum(one[:2] - one[2:4] / 2, other[:2] - other[2:4] / 2)
    high = np.minimum(one[:2] + one[2:4] / 2, other[:2] + other[2:4] / 2)
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / max(float(np.prod(one[2:4]) + np.prod(other[2:4])) - shared, 1e-6)


def segmenter_of(encoder: Path, decoder: Path) -> Segmenter:
    """A segmenter of the interface of Segment Anything: `encoder` makes features of a picture, which `decoder` takes
    with `point_coords` [1, n, 2] and `point_labels` [1, n] (1 inside, 0 outside, 2 and 3 the corners of a box), giving
    logits of masks [1, k, h, w] and, if there are several, how good each one is."""
    sees, cuts = _Network.open(encoder, _SEGMENT_SIDE), _decoder(decoder)

    def segment(frame: Frame, selection: Selection) -> Mask:
        height, width, _ = frame.shape
        if selection.is_exact:
            return selection.area(width, height)
        scale = min(sees.side[0] / width, sees.side[1] / height)
        features = sees.run(sees.picture(_padded(frame, scale, sees.side), normalized=True))
        given = _prompted(cuts, features, selection, scale, (height, width))
        masks, *scores = cuts.run(None, given)
        best = int(np.argmax(scores[0])) if scores and scores[0].size == masks.shape[1] else 0
        return _mask(masks[0, best], scale, sees.side, (height, width))

    return segment


def _decoder(path: Path) -> Any:
    session = open_onnx(path)
    if missing := {"point_coords", "point_labels"} - {one.name for one in session.get_inputs()}:
        raise MediaError(f"{path}: takes no {' and '.join(sorted(missing))}; Segment Anything's mask decoder does")
    return session


def _prompted(
    decoder: Any, features: dict[str, Any], selection: Selection, scale: float, size: tuple[int, int]
) -> dict[str, Any]:
    """What a decoder is given: features, by name or else in order, the points, and what SAM's own export asks for."""
    points = [(x * scale, y * scale, float(inside)) for x, y, inside in selection.points]
    if selection.box is not None:
        left, top, right, bottom = (edge * scale for edge in selection.box)
        points += [(left, top, 2.0), (right, bottom, 3.0)]
    coordinates = np.array([[point[:2] for point in points]], np.float32)
    labels = np.array([[point[2] for point in points]], np.float32)
    ready: dict[str, Any] = {
        "point_coords": coordinates, "point_labels": labels, "has_mask_input": np.zeros(1, np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32), "orig_im_size": np.array(size, np.float32),
    }  # fmt: skip
    rest = [value for name, value in features.items() if name not in {one.name for one in decoder.get_inputs()}]
    given: dict[str, Any] = {}
    for one in decoder.get_inputs():
        value: Any = ready[one.name] if one.name in ready else features.get(one.name)
        value = rest.pop(0) if value is None else value
        given[one.name] = value.astype(np.int32) if one.type == "tensor(int32)" else value
    return given


def _padded(frame: Frame, scale: float, side: tuple[int, int]) -> Frame:
    """A frame, scaled, in the upper left corner of a black picture of the encoder's size."""
    from lichtspiel.footage.stitch import scaled

    height, width = round(frame.shape[0] * scale), round(frame.shape[1] * scale)
    picture = np.zeros((side[1], side[0], 3), np.uint8)
    picture[:height, :width] = scaled(frame, (width, height))
    return picture


def _mask(logits: NDArray[np.float32], scale: float, side: tuple[int, int], size: tuple[int, int]) -> Mask:
    """Logits at the clip's size or the encoder's proportions as a mask [h, w]."""
    from lichtspiel.footage.stitch import scaled

    inside = (logits > 0).astype(np.uint8) * np.uint8(255)
    if inside.shape != size:
        share = inside.shape[1] / side[0]
        inside = inside[: max(round(size[0] * scale * share), 1), : max(round(size[1] * scale * share), 1)]
    return scaled(inside, (size[1], size[0])) > 127
