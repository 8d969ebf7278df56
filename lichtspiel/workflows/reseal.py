"""Marks for videos that another tool made: the same door, watermark, credentials and record as for our own.

It knows files, terms and the door; it makes no pixel. What made the video is the word of whoever calls this, and is
recorded as such; the file itself goes into the credentials as the parent, with its own when it has any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel import __version__
from lichtspiel.errors import RequestError
from lichtspiel.media.video import read_video, video_info
from lichtspiel.seal import Input, Provenance, Sealed, check_output, seal
from lichtspiel.workflows.outputs import check_distinct
from lichtspiel.workflows.terms import Terms

if TYPE_CHECKING:
    from lichtspiel.frames import Frame


__all__ = ["adopt"]

MAX_NAME = 200


def adopt(
    file: Path,
    out: Path,
    *,
    made_with: str,
    prompt: str,
    terms: Terms,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> Sealed:
    """Encode `file` anew at `out` with all marks and return what left; its sound goes along as it is.

    Sides are cropped by a pixel where they are odd, as yuv420p needs. Raises MediaError for a file that is no video,
    RequestError for an empty name of the tool, Refused when the policy does not allow the prompt or the frames.
    """
    if not made_with.strip() or len(made_with) > MAX_NAME:
        raise RequestError("made_with", made_with, f"it names the tool, in at most {MAX_NAME} characters")
    check_distinct({"--out": out}, [("FILE", file)])
    info = video_info(file)
    width, height = info.width - info.width % 2, info.height - info.height % 2
    fps = Fraction(info.fps).limit_denominator(1001) if info.fps else Fraction(16)
    check_output(out, pixels=width * height * max(info.frames, 1))
    inspection = terms.admit(prompt, [], has_image=False)
    provenance = Provenance(
        model=made_with.strip(),
        version=__version__,
        source_type="trainedAlgorithmicMedia",
        prompt=prompt,
        negative="",
        parameters={"adopted": True, "size": [width, height], "fps": float(fps)},
        inputs=(Input.of(file, "original", parent=True),),
        embed_prompt=terms.embed_prompt,
    )

    def frames() -> Iterator[Frame]:
        for number, frame in enumerate(read_video(file), 1):
            progress(f"sealing, frame {number}", min(number / max(info.frames, number), 1.0))
            yield frame[:height, :width]

    watched = inspection.watch(frames(), float(fps))
    sealed = seal(watched, provenance, out, fps=fps, marks=terms.marks, timestamp=terms.timestamp, sound=file)
    inspection.remember(sealed, provenance)
    return sealed
