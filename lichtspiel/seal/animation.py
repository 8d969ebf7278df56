"""Write an animated GIF or WebP, with the same marks as a video.

This module knows both formats, their time stamps and where they keep a line of text; `export` signs the file and writes
it atomically. GIF keeps 256 colors a frame, and counts hundredths of a second. Neither has sound.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import RequestError
from lichtspiel.seal import identity, labels
from lichtspiel.seal.credentials import Provenance
from lichtspiel.seal.export import EncodeSettings, Sealed, check_output, finalize, write_errors
from lichtspiel.seal.marks import Marks

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = ["ANIMATIONS", "seal_animation"]

ANIMATIONS = {".gif": "image/gif", ".webp": "image/webp"}
"""The MIME types of animations, by the suffixes of their names."""

_TICKS = {".gif": 10, ".webp": 1}  # milliseconds that a duration is a multiple of
_MAX_FPS = 50  # players show a GIF of shorter frames ten times slower
_QUALITY = 95  # of WebP; at 80 small pictures lose the watermark
_DESCRIPTION = 0x010E  # of Exif: ImageDescription


def seal_animation(
    frames: Iterable[Frame],
    provenance: Provenance,
    out: str | Path,
    *,
    fps: int | Fraction,
    marks: Marks | None = None,
    signer: identity.Identity | None = None,
    timestamp: str | None = None,
) -> Sealed:
    """Mark frames (uint8 [height, width, 3], RGB) and write them to `out`, a name that ends in .gif or .webp, as a
    signed animation that repeats, like `seal` for videos. All frames are in memory at once.

    Raises RequestError for a rate of more than 50 frames a second, OutputError for a name that cannot be written, and
    LichtspielError when writing or signing fails.
    """
    suffix = Path(out).suffix.lower()
    out, marks = check_output(out, suffix=suffix), marks or Marks.of()
    if not 1 <= fps <= _MAX_FPS:
        raise RequestError("fps", fps, f"an animation has from 1 to {_MAX_FPS} frames a second", _MAX_FPS)
    provenance = dataclasses.replace(provenance, watermarked=marks.watermark)
    settings = EncodeSettings(fps, marks, provenance, format=ANIMATIONS[suffix])
    return finalize(out, settings, lambda draft: _animate(frames, draft, settings, suffix), signer, timestamp)


def _animate(frames: Iterable[Frame], path: Path, settings: EncodeSettings, suffix: str) -> dict[str, int]:
    from PIL import Image

    pictures = []
    apply = None
    for number, frame in enumerate(frames):
        height, width, _ = frame.shape
        apply = apply or settings.apply_marks(height, width)
        pictures.append(Image.fromarray(apply(frame, number)))
    if not pictures:
        raise RequestError("frames", 0, "an animation has at least one frame", 1)
    tick = _TICKS[suffix]
    shown = [round(Fraction(1000 * number) / settings.fps / tick) * tick for number in range(len(pictures) + 1)]
    options: dict[str, Any] = {"duration": [after - before for before, after in itertools.pairwise(shown)], "loop": 0}
    text, packet = labels.line(settings.tags()), settings.packet()
    if suffix == ".gif":
        options |= {"comment": text.encode()} if text else {}
    else:
        exif = Image.Exif()
        exif[_DESCRIPTION] = text
        options |= {"quality": _QUALITY, "exif": exif.tobytes() if text else b"", "xmp": packet.encode()}
    with write_errors(path):
        pictures[0].save(path, format=suffix[1:].upper(), save_all=True, append_images=pictures[1:], **options)
    return {"width": pictures[0].width, "height": pictures[0].height, "frames": len(pictures)}
