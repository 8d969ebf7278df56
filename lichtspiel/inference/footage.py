"""Which frames of a given video a request uses, and whether the video has enough of them.

The official code spreads a fixed number of frames over the whole video and plays them at 16 per second, whatever the
video's own speed. Here the number of frames follows from the length of the video, so that it plays at the right speed
as far as the checkpoint's longest video allows.
"""

from __future__ import annotations

from lichtspiel.errors import RequestError
from lichtspiel.media.media import Media
from lichtspiel.media.timeline import Timeline
from lichtspiel.request import Request
from lichtspiel.spec import model

__all__ = ["check_footage", "choose_frames", "footage_notes"]

SLACK = 0.06
"""How far the speed may be off before a note says so: three frames of 49, which rounding to 4n+1 may cost."""


def choose_frames(request: Request, timeline: Timeline, frames: int | None) -> list[int]:
    """The indices of the frames that a request takes from a video; `frames` is None where the video decides how many.

    A video that is too short gives its last frame again; `check_footage` refuses that afterwards.
    """
    frames = most_frames(request, timeline) if frames is None else frames
    if request.pace == "real":
        return timeline.real(frames, request.fps, request.video_start)
    if request.pace == "each":
        return timeline.each(frames, request.video_start)
    return timeline.whole(frames, request.video_start)


def most_frames(request: Request, timeline: Timeline) -> int:
    """The number of frames that plays the rest of a video at its own speed, or with `pace` each shows every frame:
    the nearest that the checkpoint makes, and no more than the video has unless it has fewer than the checkpoint's
    rate."""
    row = model(request.model)
    left = timeline.left(request.video_start)
    wanted = left if request.pace == "each" else max(round(_seconds(request, timeline) * request.fps), 1)
    nearest = row.nearest_frames(wanted)
    over = nearest > wanted and (request.pace != "whole" or wanted <= left < nearest)
    return nearest - row.vae.stride[0] if over else nearest


def check_footage(request: Request, video: Media) -> None:
    """Raise RequestError when a video is too short for the frames that a request asks for."""
    timeline, start = video.timeline, request.video_start
    if start >= timeline.seconds and start > 0:
        shown = f"{timeline.seconds:.3g}"
        raise RequestError("video_start", start, f"{video.path} lasts {shown} s; start before its end", 0)
    most = most_frames(request, timeline)
    if request.pace == "whole":
        most = max(most, _at_most(request, timeline.left(start)))
    if request.frames > most:
        left, rest = timeline.left(start), f" after its first {start:g} s" if start else ""
        has = f"has {left} frames{rest}, fewer than" if most <= left else f"lasts {timeline.seconds:.3g} s, less than"
        raise RequestError(
            "frames", request.frames, f"the video has {left}", most,
            message=f"{video.path} {has} <frames> {request.frames}. Pass <frames> {most}.",
        )  # fmt: skip


def footage_notes(request: Request, video: Media) -> list[str]:
    """What the user should know about the frames that are taken from a video."""
    timeline, path = video.timeline, video.path
    left, seconds = timeline.left(request.video_start), _seconds(request, timeline)
    length = request.frames / request.fps
    if request.pace == "each":
        notes = [f"of {path} the first {request.frames} of {left} frames are used"] if left > request.frames else []
        if video.fps is not None and round(video.fps) != request.fps:
            notes.append(f"{path} has {video.fps:g} frames per second; the result plays at {request.fps}")
        return notes
    if request.pace == "real":
        rest = f"of {path} the first {length:.3g} of {seconds:.3g} s are used"
        return [rest] if seconds - length > model(request.model).vae.stride[0] / request.fps else []
    notes = [] if left == request.frames else [f"{request.frames} of {left} frames are spread over all of {path}"]
    speed = seconds / length
    if abs(speed - 1) > SLACK and abs(seconds - length) * request.fps > model(request.model).vae.stride[0]:
        compared = f"{speed:.2g} times as fast" if speed > 1 else f"{1 / speed:.2g} times as slowly"
        notes.append(f"the result plays {compared} as {path}: {seconds:.3g} s in {length:.3g} s")
    return notes


def _seconds(request: Request, timeline: Timeline) -> float:
    return max(timeline.seconds - request.video_start, 0.0)


def _at_most(request: Request, count: int) -> int:
    """The largest number of frames up to `count` that the checkpoint makes."""
    row = model(request.model)
    nearest = row.nearest_frames(max(count, 1))
    return nearest if nearest <= count else max(nearest - row.vae.stride[0], 1)
