"""What may be given as a video: a video file, a folder of pictures, or one picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.errors import MediaError
from lichtspiel.media.picture import is_picture, load_image, pictures
from lichtspiel.media.video import read_video

if TYPE_CHECKING:
    from lichtspiel.frames import Frame


__all__ = ["media_files", "read_frames"]

_VIDEO_NAMES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".gif", ".apng")


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Yield the frames of a video, of a folder of pictures in the order of their names, or of one picture.

    Raises MediaError as `read_video` and `load_image` do, and for a folder without pictures.
    """
    path = Path(path)
    if path.is_dir():
        return (load_image(picture) for picture in pictures(path))
    return iter([load_image(path)]) if is_picture(path) else read_video(path)


def media_files(folder: Path) -> list[Path]:
    """The videos and pictures in a folder and the folders in it, known by the ends of their names; hidden ones and
    links are left out. Raises MediaError when there is none."""
    files = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        known = is_picture(path) or path.suffix.lower() in _VIDEO_NAMES
        if known and not hidden and path.is_file() and not path.is_symlink():
            files.append(path)
    if not files:
        raise MediaError(f"{folder}: holds no video or picture ({', '.join(_VIDEO_NAMES)}, .png, .jpg, .webp)")
    return files
