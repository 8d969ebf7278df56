"""What may be given as a video: a video file, a folder of pictures, or one picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.media.picture import is_picture, load_image, pictures
from lichtspiel.media.video import read_video

if TYPE_CHECKING:
    from lichtspiel.frames import Frame


__all__ = ["read_frames"]


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Yield the frames of a video, of a folder of pictures in the order of their names, or of one picture.

    Raises MediaError as `read_video` and `load_image` do, and for a folder without pictures.
    """
    path = Path(path)
    if path.is_dir():
        return (load_image(picture) for picture in pictures(path))
    return iter([load_image(path)]) if is_picture(path) else read_video(path)
