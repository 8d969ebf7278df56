"""An input picture or video, decoded only once, so that the frames the policy judged are the frames that are used.

A video is a video file, a folder of pictures sorted by name, or a single picture. Decoded frames are kept as they are;
those that exceed `MEMORY_BYTES` go to an unnamed temporary file.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lichtspiel.errors import MediaError
from lichtspiel.media.animation import is_animation, read_animation
from lichtspiel.media.picture import decode_image, is_picture, pictures, read_image
from lichtspiel.media.probe import survey
from lichtspiel.media.timeline import Timeline
from lichtspiel.media.video import open_video
from lichtspiel.storage import file_sha256

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = [
    "Choose",
    "Media",
    "is_video",
    "keep_frames",
    "last_picture",
    "media_files",
    "media_sha256",
    "read_frames",
]

Choose = Callable[[Timeline], Sequence[int]]
"""Chooses from a timeline the indices of the frames to use, in order; an index may be there more than once."""

_VIDEO_NAMES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".gif", ".apng")

MEMORY_BYTES = 512 << 20
"""How many bytes of frames one video keeps in memory."""


@dataclass(frozen=True)
class Media:
    """The content of a file or folder when it was read.

    `frames` are the frames that were kept, and `count` is the number there were in total, all of one `size` (width,
    height). `timeline` says when each is shown, `picks` are the indices of those to use. `fps` is None if no rate is
    stated. A `still` is a single picture. `sha256` is the digest of the bytes that were decoded; for a folder it is
    computed from the digests of its pictures, in order.
    """

    path: Path
    frames: list[Frame]
    timeline: Timeline
    picks: Sequence[int]
    size: tuple[int, int]
    fps: float | None
    still: bool
    sha256: str

    @property
    def count(self) -> int:
        """The number of frames in the file or folder."""
        return self.timeline.count

    @classmethod
    def read_picture(cls, path: Path) -> Media:
        """Read one picture. Raises MediaError like `load_image`."""
        content = read_image(path)
        frame = decode_image(path, content)
        height, width, _ = frame.shape
        digest = hashlib.sha256(content).hexdigest()
        return cls(path, [frame], Timeline.even(1, 1), [0], (width, height), None, True, digest)

    @classmethod
    def read_video(cls, path: Path, choose: Choose, *, fps: float, every: int = 1) -> Media:
        """Read a video and keep every `every`-th of the frames that `choose` takes from it. `fps` is the rate to assume
        where none is stated. Raises MediaError when the video cannot be read, its frames differ in size, or it changes
        while it is being read."""
        if path.is_dir():
            return cls._read_folder(path, choose, fps, every)
        animated = is_animation(path)
        if is_picture(path) and not animated:
            picture, timeline = cls.read_picture(path), Timeline.even(1, fps)
            picks = choose(timeline)
            return replace(picture, timeline=timeline, picks=picks, frames=picture.frames * len(picks[::every]))
        survey(path)
        before = _state(path)
        sha256 = file_sha256(path)
        if animated:
            stated, timeline = None, Timeline.of_animation(path, fps)
            picks = choose(timeline)
            frames, _ = _read_selected(path, read_animation(path), picks[::every])
        else:
            timeline = Timeline.of_video(path, fps)
            picks = choose(timeline)
            video = open_video(path)
            stated = video.info.fps or None
            frames, count = _read_selected(path, video.frames, picks[::every])
            if count != timeline.count:  # packets that are not shown, as VP8 has them
                timeline = Timeline.of_video(path, fps, decode=True)
                picks = choose(timeline)
                frames, _ = _read_selected(path, open_video(path).frames, picks[::every])
        if _state(path) != before:
            raise MediaError(f"{path}: changed while it was read; try again when it is complete")
        height, width, _ = frames[0].shape
        return cls(path, frames, timeline, picks, (width, height), stated, False, sha256)

    @classmethod
    def _read_folder(cls, path: Path, choose: Choose, fps: float, every: int) -> Media:
        digests: list[str] = []
        paths = pictures(path)
        timeline = Timeline.even(len(paths), fps)

        def read() -> Iterator[Frame]:
            for picture in paths:
                content = read_image(picture)
                digests.append(hashlib.sha256(content).hexdigest())
                yield decode_image(picture, content)

        picks = choose(timeline)
        frames, _ = _read_selected(path, read(), picks[::every])
        height, width, _ = frames[0].shape
        return cls(path, frames, timeline, picks, (width, height), None, False, _joined(digests))


def media_sha256(path: Path) -> str:
    """Compute `Media.sha256` of a file or folder without decoding it. Raises MediaError and OSError."""
    if not path.is_dir():
        return file_sha256(path)
    return _joined([file_sha256(picture) for picture in pictures(path)])


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Yield the frames of a video, of a folder of pictures sorted by name, or of a single picture.

    Raises MediaError like `open_video` and `load_image`, and for a folder without pictures.
    """
    path = Path(path)
    if path.is_dir():
        return (decode_image(picture, read_image(picture)) for picture in pictures(path))
    if is_animation(path):
        return read_animation(path)
    return iter([decode_image(path, read_image(path))]) if is_picture(path) else open_video(path).frames


def last_picture(path: Path) -> bytes:
    """The last frame of a video, or a picture itself, as a PNG. Raises MediaError like `Media.read_video`."""
    from PIL import Image

    survey(path)
    frame = collections.deque(read_frames(path), maxlen=1).pop()
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def is_video(path: Path) -> bool:
    """Whether a file has the extension of a video; its content is only checked on reading."""
    return path.suffix.lower() in _VIDEO_NAMES


def media_files(folder: Path) -> list[Path]:
    """List the videos and pictures in a folder and its subfolders, by file extension. Skips hidden files and links.
    Raises MediaError when there are none."""
    files = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        is_media = is_picture(path) or is_video(path)
        if is_media and not hidden and path.is_file() and not path.is_symlink():
            files.append(path)
    if not files:
        raise MediaError(f"{folder}: holds no video or picture ({', '.join(_VIDEO_NAMES)}, .png, .jpg, .webp)")
    return files


def keep_frames(frames: Iterable[Frame]) -> list[Frame]:
    """All frames as a list; those that exceed `MEMORY_BYTES` go to an unnamed temporary file."""
    with _Kept() as kept:
        return [kept.frame(frame) for frame in frames]


class _Kept(contextlib.ExitStack):
    """Where frames are kept: in memory, and in a temporary file when there are many. The closed file exists until the
    arrays that map it are gone."""

    used = 0
    file: IO[bytes] | None = None

    def frame(self, frame: Frame) -> Frame:
        """The frame as it is kept."""
        import numpy as np

        if self.used + frame.nbytes <= MEMORY_BYTES:
            self.used += frame.nbytes
            return frame
        if self.file is None:
            self.file = self.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  (this is a context)
        offset = self.file.seek(0, os.SEEK_END)
        frame.tofile(self.file)
        self.file.flush()
        return np.memmap(self.file, np.uint8, "c", offset, frame.shape)


def _read_selected(path: Path, frames: Iterable[Frame], picks: Sequence[int]) -> tuple[list[Frame], int]:
    """Return the frames with the indices `picks`, and the number of all frames. Raises MediaError if their sizes
    differ."""
    wanted = set(picks)
    found: dict[int, Frame] = {}
    number, shape = -1, None
    with _Kept() as kept:
        for number, frame in enumerate(frames):
            shape = shape or frame.shape
            if frame.shape != shape:
                sizes = f"{frame.shape[1]}x{frame.shape[0]}, the first is {shape[1]}x{shape[0]}"
                raise MediaError(f"{path}: frame {number} is {sizes}; export all of them at one size")
            if number in wanted:
                found[number] = kept.frame(frame)
    return [found.get(pick, frame) for pick in picks], number + 1  # fewer frames than stamps: the caller reads again


def _joined(digests: list[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int, int]:
    """Properties of a file that change when it is written or replaced."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
