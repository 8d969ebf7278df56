"""Given clips as the workflows on footage read them, and what their results say of themselves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel import __version__
from lichtspiel.errors import MediaError, RequestError
from lichtspiel.media.animation import is_animation
from lichtspiel.media.media import MEMORY_BYTES, Media
from lichtspiel.media.picture import is_picture
from lichtspiel.media.sound import has_sound
from lichtspiel.media.timeline import Timeline
from lichtspiel.media.video import undecodable, video_info
from lichtspiel.seal import Input, Marks, Provenance, Sound
from lichtspiel.seal.credentials import JSON, SourceType
from lichtspiel.workflows.terms import Inspection, Terms

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = ["Clip", "film_of", "frame_at", "plain_marks", "provenance_of_clip", "read_clip", "sound_of"]

MAX_FRAMES = 1500
"""The longest clip that is worked on, in frames: a minute at 25 frames per second."""

_JUDGED_PER_SECOND = 2
_EXACT = 0.002  # by how much rates may differ that are the same: files round time stamps


@dataclass(frozen=True)
class Clip:
    """A clip that was read: its frames, all of one size, and its frame rate."""

    media: Media
    fps: Fraction

    @property
    def frames(self) -> list[Frame]:
        """All frames, [h, w, 3]."""
        return self.media.frames

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.media.size

    def judge(self, prompt: str, terms: Terms, *, more: Sequence[Frame] = (), negative: str = "") -> Inspection:
        """Let the policy judge the clip, at two frames per second, and `more` pictures, with what is to be done to it.
        Raises Refused."""
        every = max(round(self.fps / _JUDGED_PER_SECOND), 1)
        return terms.admit(prompt, [*self.frames[::every], *more], has_image=True, negative=negative)


def read_clip(path: Path, *, fps: float = 16.0) -> Clip:
    """Read all frames of a clip. `fps` is assumed where none is stated. Raises MediaError."""

    def everything(timeline: Timeline) -> range:
        count = timeline.count
        if count > MAX_FRAMES:
            raise MediaError(
                f"{path}: has {count:,} frames; at most {MAX_FRAMES:,} are worked on at once; cut it first"
            )
        if path.is_file() and not is_picture(path) and not is_animation(path):
            _check_beginning(path)
            _check_room(path, count)
        return range(count)

    media = Media.read_video(path, everything, fps=fps)
    return Clip(media, _rate(media, fps))


def _check_beginning(path: Path) -> None:
    """Raise MediaError for a clip that was cut without its key frame: what precedes the next one cannot be shown."""
    missing, count = undecodable(path)
    if missing:
        rest = "and holds none" if missing == count else f"and the first one comes after {missing} frames"
        raise MediaError(
            f"{path}: begins without a key frame, {rest}, so it was cut from a longer video without being encoded; "
            "cut it again with encoding: ffmpeg -ss START -i LONGER -t SECONDS CLIP"
        )


def _check_room(path: Path, count: int) -> None:
    """Raise MediaError for a clip whose frames fit neither into memory nor onto the disk."""
    info = video_info(path)
    spilled = info.width * info.height * 3 * count - MEMORY_BYTES
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if spilled > free:
        raise MediaError(
            f"{path}: its {count:,} frames of {info.width}x{info.height} need {spilled / 1e9:.1f} GB in {folder}, "
            f"where {free / 1e9:.1f} GB are free; cut the clip, scale it, or name another folder in TMPDIR"
        )


def _rate(media: Media, assumed: float) -> Fraction:
    """The frames per second that a file states, or those of its time stamps where they differ from that."""
    stated, starts = Fraction(media.fps or assumed).limit_denominator(1001), media.timeline.starts
    if len(starts) < 2 or starts[-1] <= starts[0]:
        return stated
    shown = (len(starts) - 1) / (starts[-1] - starts[0])
    if abs(shown / stated - 1) < _EXACT:
        return stated
    whole = round(shown)
    return Fraction(whole) if whole and abs(shown / whole - 1) < _EXACT else Fraction(shown).limit_denominator(1001)


def sound_of(clip: Clip) -> Sound | None:
    """All of the clip's sound, or None if there is none."""
    path = clip.media.path
    return Sound(path) if path.is_file() and not is_picture(path) and has_sound(path) else None


def film_of(clip: Clip, frames: Sequence[Frame], fps: float) -> Media:
    """Frames of one size, made from a clip, as a given video of a request whose frames are taken one after another."""
    height, width, _ = frames[0].shape
    timeline = Timeline.even(len(frames), fps)
    return replace(
        clip.media, frames=[*frames], picks=range(len(frames)), size=(width, height), fps=None, still=False,
        timeline=timeline,
    )  # fmt: skip


def frame_at(clip: Clip, seconds: float) -> int:
    """The number of the frame that is shown at a time. Raises RequestError for a time outside the clip."""
    number = int(seconds * clip.fps + Fraction(1, 1000))
    if not 0 <= number < len(clip.frames):
        last = round(float((len(clip.frames) - 1) / clip.fps), 3)
        rule = f"{clip.media.path} lasts from 0 to {last:g} seconds"
        raise RequestError("at", seconds, rule, min(max(0.0, seconds), last))
    return number


def even(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames with even sides: H.264 needs them, so the last column or row is left out where there is an odd number."""
    for frame in frames:
        yield frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]


def plain_marks(marks: Marks) -> Marks:
    """The marks of a technical film, such as a mask. A watermark or label would change its levels."""
    return replace(marks, watermark=False, label=False, comment=False)


def provenance_of_clip(
    clip: Clip, terms: Terms, *, model: str, source_type: SourceType, prompt: str, parameters: Mapping[str, JSON]
) -> Provenance:
    """The provenance of something made from a clip, which is its parent."""
    return Provenance(
        model=model, version=__version__, source_type=source_type, prompt=prompt, negative="", parameters=parameters,
        inputs=(Input("video", clip.media.path, clip.media.sha256, parent=True),), embed_prompt=terms.embed_prompt,
    )  # fmt: skip
