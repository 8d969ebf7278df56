"""What a checkpoint can be asked for: sizes, lengths and tasks.

Nothing is rounded: an error names the nearest value that works. This module knows the registry and no requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lichtspiel.errors import RequestError
from lichtspiel.spec import MODELS, Model, Task

__all__ = [
    "check_frames",
    "check_size",
    "check_task",
    "check_window",
    "frames_of",
    "open_windows",
]

WINDOW_OVERLAP = 16
"""The frames that windows share, as in WanVideoWrapper."""


def frames_of(seconds: float, row: Model, *, windowed: bool = False) -> int:
    """The valid number of frames whose duration is nearest to `seconds`; more if they are made in windows. Raises
    RequestError."""
    frames = round(min(seconds * row.sampling.fps, 10.0**6))
    most = row.longest if row.open_ended or windowed else row.sampling.max_frames
    nearest = row.nearest_frames(frames, most=most)
    if abs(nearest - frames) > row.vae.stride[0] // 2:
        limit = f"{row.name} makes up to {most / row.sampling.fps:g} seconds"
        raise RequestError("seconds", seconds, limit, round(nearest / row.sampling.fps, 3))
    return nearest


def check_frames(frames: int, row: Model, least: int, *, windowed: bool = False) -> None:
    """Raise RequestError for a number of frames that a checkpoint does not make; `least` is the fewest for the task."""
    most = row.longest if windowed else row.sampling.max_frames
    nearest = row.nearest_frames(frames, least, most)
    if frames != nearest:
        rule = f"{row.name} makes {row.frame_rule} frames, from {least} to {most}"
        raise RequestError("frames", frames, rule, nearest)


def open_windows(options: Mapping[str, Any], row: Model) -> dict[str, int]:
    """The windows that a request leaves open: where the number of frames needs some, as long as the checkpoint was
    trained on, and sharing 16 frames, or up to half of a short window."""
    try:
        frames, window, overlap = (int(options.get(name) or 0) for name in ("frames", "window", "window_overlap"))
    except (TypeError, ValueError):
        return {}  # what is no number is refused afterwards
    needed = row.open_ended and not window and frames > row.sampling.max_frames
    found = {"window": row.sampling.frames} if needed else {}
    window = found.get("window", window)
    if window and not overlap:
        stride = row.vae.stride[0]
        found["window_overlap"] = max(min(WINDOW_OVERLAP, (window - 1) // 2 // stride * stride), stride)
    return found


def check_window(window: int, overlap: int, frames: int, row: Model) -> None:
    """Raise RequestError for windows that a checkpoint cannot make a video of. `window` 0 stands for none."""
    stride = row.vae.stride[0]
    if not window:
        if overlap:
            raise RequestError("window_overlap", overlap, "there are no windows that could overlap: set <window>", 0)
        return
    nearest = row.nearest_frames(window, 2 * stride + 1, row.longest)
    if window != nearest:
        rule = f"{row.name} sees {row.frame_rule} frames at once, from {2 * stride + 1} to {row.longest}"
        raise RequestError("window", window, rule, nearest)
    if frames <= min(window, row.sampling.max_frames):
        raise RequestError("window", window, f"it has no effect on {frames} frames, which are made at once", 0)
    most = window - 1 - stride
    if overlap % stride or not stride <= overlap <= most:
        near = min(max(round(overlap / stride) * stride, stride), most)
        raise RequestError("window_overlap", overlap, f"it is a multiple of {stride}, from {stride} to {most}", near)


def check_size(size: tuple[int, int], row: Model) -> None:
    """Raise RequestError for a width and height that a checkpoint does not make."""
    sampling, grid, (width, height) = row.sampling, row.grid, size
    shown = f"{width}x{height}"
    listed = ", ".join(f"{w}x{h}" for w, h in sampling.sizes)
    if not sampling.free_size:
        if size not in sampling.sizes:
            nearest = min(sampling.sizes, key=lambda s: abs(s[0] - width) + abs(s[1] - height))
            raise RequestError("size", shown, f"{row.name} makes {listed}", f"{nearest[0]}x{nearest[1]}")
        return
    largest = max(w * h for w, h in sampling.sizes)
    if width % grid or height % grid or min(size) < grid:
        near = tuple(max(round(side / grid) * grid, grid) for side in size)
        if near[0] * near[1] > largest:
            near = tuple(max(side // grid * grid, grid) for side in size)
        if near[0] * near[1] <= largest:
            raise RequestError("size", shown, f"width and height are multiples of {grid}", f"{near[0]}x{near[1]}")
    if width * height > largest:
        near = min(sampling.sizes, key=lambda s: abs(s[0] / s[1] - width / height))
        rule = f"{row.name} makes at most {largest} pixels a frame (made for {listed})"
        raise RequestError("size", shown, rule, f"{near[0]}x{near[1]}")


_NEEDS: dict[Task, str] = {
    "text": "no picture",
    "image": "a first picture",
    "first-last": "a first and a last picture",
    "edit": "a video, mask or reference",
}


def check_task(task: Task, row: Model) -> None:
    """Raise RequestError for a task that a checkpoint was not trained on."""
    if task not in row.tasks:
        wants = " or ".join(_NEEDS[kind] for kind in sorted(row.tasks))
        candidates = [other for other in MODELS.values() if task in other.tasks]
        nearest = min(candidates, key=lambda other: (other.embedded, other.dit.width != row.dit.width))
        rule = f"it takes {wants}, and this request has {_NEEDS[task]}"
        if task == "image" and "edit" in row.tasks:
            rule += "; it can show what is in the picture, given as <references>"
        if task == "edit" and "text" in row.tasks:
            rule += "; it can start from <video> with <strength> below 1"
        raise RequestError("model", row.name, rule, nearest.name)
