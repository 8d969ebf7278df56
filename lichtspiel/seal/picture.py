"""Write one picture as PNG, with the same marks as a video.

This module knows PNG and its text entries; `export` signs the file and writes it atomically. The label and the
watermark are those of a one-frame video.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.seal import identity, labels, xmp
from lichtspiel.seal.credentials import Provenance
from lichtspiel.seal.export import EncodeSettings, Sealed, check_output, finalize, write_errors
from lichtspiel.seal.marks import Marks

if TYPE_CHECKING:
    from lichtspiel.frames import Frame


__all__ = ["seal_picture"]


def seal_picture(
    frame: Frame,
    provenance: Provenance,
    out: str | Path,
    *,
    marks: Marks | None = None,
    signer: identity.Identity | None = None,
    timestamp: str | None = None,
) -> Sealed:
    """Mark a picture (uint8 [height, width, 3], RGB) and write it to `out` as a signed PNG, like `seal` for videos.

    Raises OutputError for a name that cannot be written, and LichtspielError when writing or signing fails.
    """
    out, marks = check_output(out, suffix=".png"), marks or Marks.of()
    assert frame.dtype == "uint8", frame.dtype
    assert frame.ndim == 3, frame.shape
    settings = EncodeSettings(
        1, marks, dataclasses.replace(provenance, watermarked=marks.watermark), format="image/png"
    )
    sealed = finalize(out, settings, lambda draft: _draw(frame, draft, settings), signer, timestamp)
    return dataclasses.replace(sealed, fps=0)


def _draw(frame: Frame, path: Path, settings: EncodeSettings) -> dict[str, int]:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    height, width, _ = frame.shape
    tags, entries = settings.tags(), PngInfo()
    for key, name in labels.PNG_NAMES.items():
        if key in tags:
            entries.add_itxt(name, tags[key])
    if packet := settings.packet():
        entries.add_itxt(xmp.KEYWORD, packet)
    with write_errors(path):
        Image.fromarray(settings.apply_marks(height, width)(frame, 0)).save(path, format="PNG", pnginfo=entries)
    return {"width": width, "height": height, "frames": 1}
