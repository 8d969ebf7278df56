"""The same door for one picture: PNG, with the marks that a video gets.

It knows PNG and its text entries; the order of marks and how a file appears whole or not at all are the door's. The
words and the invisible mark are those of a video of one frame.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.seal import identity, labels
from lichtspiel.seal.credentials import Provenance
from lichtspiel.seal.export import Look, Sealed, check_output, leave, writing
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
    """Mark a picture (uint8 [height, width, 3], RGB), write it as PNG, sign it and let it appear at `out`.

    Everything else is as `seal` does it for a video. Raises OutputError for a name that cannot be written and
    LichtspielError when writing or signing fails.
    """
    out, marks = check_output(out, suffix=".png"), marks or Marks.of()
    assert frame.dtype == "uint8", frame.dtype
    assert frame.ndim == 3, frame.shape
    look = Look(1, marks, dataclasses.replace(provenance, watermarked=marks.watermark), format="image/png")
    sealed = leave(out, look, lambda draft: _draw(frame, draft, look), signer, timestamp)
    return dataclasses.replace(sealed, fps=0)


def _draw(frame: Frame, path: Path, look: Look) -> dict[str, int]:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    height, width, _ = frame.shape
    said, entries = look.provenance, PngInfo()
    tags = labels.tags(look.marks, id=said.id, model=said.model, version=said.version, created=said.created)
    for key, name in labels.PNG_NAMES.items():
        if key in tags:
            entries.add_itxt(name, tags[key])
    with writing(path):
        Image.fromarray(look.painter(height, width)(frame, 0)).save(path, format="PNG", pnginfo=entries)
    return {"width": width, "height": height, "frames": 1}
