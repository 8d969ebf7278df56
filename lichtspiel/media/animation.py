"""Read animated WebP and PNG, which FFmpeg's demuxers do not support, with limits on bytes, pixels and frames.

Frames are uint8 arrays [height, width, 3], RGB. Transparent pixels are blended with white, as in `picture`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.errors import MediaError
from lichtspiel.media.picture import allow_long_texts, check_image_file

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = ["animation_durations", "animation_size", "is_animation", "read_animation"]

MAX_PIXELS = 4096 * 2304
_FORMATS = ("WEBP", "PNG")


def is_animation(path: Path) -> bool:
    """Whether a file is a WebP or PNG with more than one frame; reads only its header."""
    from PIL import Image

    try:
        check_image_file(path)
        allow_long_texts()
        with Image.open(path, formats=_FORMATS) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged file can make Pillow's parsers raise anything
        return False


def animation_size(path: Path) -> tuple[int, int]:
    """The width and height of an animation, from its header. Raises MediaError like `read_animation`."""
    from PIL import Image

    check_image_file(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.size
    except Exception as error:  # as in `is_animation`
        raise MediaError(f"{path}: is damaged ({error}); copy or export it again") from error


def read_animation(path: Path, most_pixels: int | None = None) -> Iterator[Frame]:
    """Yield the frames of an animated WebP or PNG, one at a time; those of more than `most_pixels` are reduced.

    Raises MediaError when the file is missing, damaged, of another type, or exceeds the limits.
    """
    import numpy as np
    from PIL import Image

    check_image_file(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(
                    f"{path}: is {image.width}x{image.height}; frames of at most {MAX_PIXELS:,} pixels are read; "
                    "reduce it first"
                )
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                pixels = image.convert("RGBA")
                frame = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
                if most_pixels is not None and frame.width * frame.height > most_pixels:
                    factor = math.sqrt(most_pixels / (frame.width * frame.height))
                    size = max(1, int(frame.width * factor)), max(1, int(frame.height * factor))
                    frame = frame.resize(size, Image.Resampling.BOX)
                yield np.asarray(frame, np.uint8)
    except (MediaError, MemoryError, GeneratorExit):
        raise
    except Exception as error:  # as above
        raise MediaError(f"{path}: is damaged ({error}); copy or export it again") from error


def animation_durations(path: Path) -> list[float]:
    """How long each frame of an animated WebP or PNG is shown, in seconds; 0 where the file does not say it. Raises
    MediaError like `read_animation`."""
    from PIL import Image

    check_image_file(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MediaError(f"{path}: frames of at most {MAX_PIXELS:,} pixels are read; reduce it first")
            durations = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                image.load()  # a WebP says how long a frame is shown only once it is decoded
                durations.append(float(image.info.get("duration") or 0) / 1000)
            return durations
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # as above
        raise MediaError(f"{path}: is damaged ({error}); copy or export it again") from error
