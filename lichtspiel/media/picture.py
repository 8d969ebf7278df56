"""Read pictures, upright and in RGB, with limits on bytes and pixels.

Errors name the file and the remedy. Pictures are uint8 arrays [height, width, 3].
"""

from __future__ import annotations

import io
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.errors import MediaError

if TYPE_CHECKING:
    from PIL import Image

    from lichtspiel.frames import Frame


__all__ = ["allow_long_texts", "check_image_file", "decode_image", "is_picture", "load_image", "pictures", "read_image"]

MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_PIXELS = 64_000_000
MAX_PICTURES = 10_000
"""The most pictures that a folder read as a video may contain."""

# No other formats: each would expose one more parser to untrusted files.
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_BAND = 256  # rows of a picture that are converted at once
_IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def load_image(path: str | Path) -> Frame:
    """Read a picture as RGB, rotated according to its EXIF orientation, with transparency blended with white.

    Raises MediaError when the file is missing, damaged, too large, animated, 16-bit, or not a picture.
    """
    path = Path(path)
    return decode_image(path, read_image(path))


def decode_image(path: Path, content: bytes) -> Frame:
    """Decode the bytes of a picture; `path` is used in error messages. Raises MediaError like `load_image`."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    allow_long_texts()
    try:
        with Image.open(io.BytesIO(content), formats=_IMAGE_FORMATS) as image:
            _check_image(path, image)
            ImageOps.exif_transpose(image, in_place=True)
            upright = _in_srgb(image)
            frame = np.empty((upright.height, upright.width, 3), np.uint8)
            for top in range(0, upright.height, _BAND):  # whole copies of a large picture would take gigabytes
                band = upright.crop((0, top, upright.width, min(top + _BAND, upright.height)))
                frame[top : top + _BAND] = np.asarray(_on_white(band), np.uint8)
            return frame
    except (MediaError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{path}: has more than {MAX_IMAGE_PIXELS:,} pixels; reduce it first") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{path}: is no picture in {', '.join(_IMAGE_FORMATS)}; convert it to PNG") from error
    except Exception as error:  # a damaged file can make Pillow's parsers raise anything
        raise MediaError(f"{path}: is damaged ({error}); copy or export it again") from error


def allow_long_texts() -> None:
    """Let Pillow read PNG files with texts and profiles of more than 1 MB, which it takes for attacks. Together they
    have at most 64 MB, which it also checks."""
    from PIL import PngImagePlugin

    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def _on_white(image: Image.Image) -> Image.Image:
    """An image in RGB, with transparency blended with white."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        pixels = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels)
    return image.convert("RGB")


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert a picture from its color profile, such as Display P3, to sRGB. A picture without a usable profile stays
    as it is, which is how viewers show it."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile or image.mode not in {"RGB", "RGBA", "CMYK", "L"}:
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, own, srgb, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def is_picture(path: Path) -> bool:
    """Whether a file has the extension of a picture; its content is only checked on reading."""
    return path.suffix.lower() in _IMAGE_NAMES


def pictures(folder: Path) -> list[Path]:
    """List the pictures in a folder, sorted by name with numbers in numeric order (9 before 10). Raises MediaError when
    there are none, or too many."""
    try:
        paths = [path for path in folder.iterdir() if is_picture(path) and not path.name.startswith(".")]
        sorted_paths = sorted(paths, key=lambda path: (_natural(path.name), path.name))
    except OSError as error:
        raise MediaError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if not sorted_paths:
        raise MediaError(f"{folder}: holds no picture ({', '.join(_IMAGE_NAMES)}); name a folder of frames")
    if len(sorted_paths) > MAX_PICTURES:
        raise MediaError(f"{folder}: holds {len(sorted_paths):,} pictures; at most {MAX_PICTURES:,} are read")
    return sorted_paths


def _natural(name: str) -> list[str | int]:
    """A sort key: a name split into alternating texts and numbers."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"([0-9]+)", name))]


def check_image_file(path: Path) -> None:
    """Raise MediaError when a file is missing, not a regular file, empty, or larger than the limit for pictures."""
    try:
        status = path.stat()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe could block forever, a device could be endless
        raise MediaError(f"{path}: is not a file")
    if status.st_size == 0:
        raise MediaError(f"{path}: is empty; copy or download it again")
    if status.st_size > MAX_IMAGE_BYTES:
        raise MediaError(f"{path}: has {status.st_size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read; reduce it first")


def read_image(path: Path) -> bytes:
    """Read the bytes of a picture file. Raises MediaError like `check_image_file`."""
    check_image_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_image(path: Path, image: Image.Image) -> None:
    # The size is in the header, so this check runs before any pixels are decoded.
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise MediaError(
            f"{path}: is {image.width}x{image.height}; at most {MAX_IMAGE_PIXELS:,} pixels are read; reduce it first"
        )
    if image.mode.startswith(("I", "F")):
        raise MediaError(f"{path}: has more than 8 bits per channel ({image.mode}); convert it to 8 bits")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photograph with its previews
        raise MediaError(f"{path}: is an animation; hand it in as a video or save one frame of it")
