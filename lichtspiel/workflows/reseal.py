"""Mark videos and pictures from other tools with the same watermark, credentials and record as our own.

This module knows files, terms and the seal; it generates nothing. Which tool made the video is only the caller's claim,
and is recorded as such. The file itself becomes the parent in the credentials, with its own credentials if it has any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel import __version__
from lichtspiel.errors import RequestError
from lichtspiel.media.picture import is_picture, load_image
from lichtspiel.media.video import read_paced, video_info
from lichtspiel.seal import Input, Provenance, Sealed, Sound, check_output, seal, seal_picture
from lichtspiel.seal.credentials import JSON
from lichtspiel.workflows.outputs import check_distinct
from lichtspiel.workflows.terms import Terms

if TYPE_CHECKING:
    from lichtspiel.frames import Frame


__all__ = ["reseal"]

MAX_NAME = 200


def reseal(
    file: Path,
    out: Path,
    *,
    made_with: str,
    prompt: str,
    terms: Terms,
    progress: Callable[[str, float], None] = lambda stage, done: None,
    note: Callable[[str], None] = lambda text: None,
) -> Sealed:
    """Re-encode a video or picture to `out` with all marks. The sound of a video is copied.

    A picture becomes a PNG. Odd sides of a video are cropped by a pixel, because yuv420p needs even ones. Raises
    MediaError for a file that is neither video nor picture, RequestError if the name of the tool is empty or not a
    single printable line, and Refused when the policy does not allow the prompt or the frames.
    """
    if not made_with.strip() or len(made_with) > MAX_NAME or not made_with.isprintable():
        rule = f"it names the tool, in one line of at most {MAX_NAME} characters"
        raise RequestError("made_with", made_with[:MAX_NAME], rule)
    check_distinct({"--out": out}, [("FILE", file)])
    if is_picture(file):
        return _adopt_picture(file, out, made_with.strip(), prompt, terms)
    info = video_info(file)
    width, height = info.width - info.width % 2, info.height - info.height % 2
    fps, paced = read_paced(file)
    check_output(out, pixels=width * height * max(info.frames, 1))
    inspection = terms.admit(prompt, [], has_image=False)
    if left_out := Sound(file).left_out():
        note(f"not kept of {file}: {', '.join(left_out)}")
    provenance = _provenance(file, made_with.strip(), prompt, terms, size=[width, height], fps=float(fps))

    def frames() -> Iterator[Frame]:
        for number, frame in enumerate(paced, 1):
            progress(f"sealing, frame {number}", min(number / max(info.frames, number), 1.0))
            yield frame[:height, :width]

    watched = inspection.watch(frames(), float(fps))
    sealed = seal(watched, provenance, out, fps=fps, marks=terms.marks, timestamp=terms.timestamp, sound=Sound(file))
    inspection.remember(sealed, provenance)
    return sealed


def _adopt_picture(file: Path, out: Path, made_with: str, prompt: str, terms: Terms) -> Sealed:
    frame = load_image(file)
    check_output(out, pixels=frame.shape[0] * frame.shape[1], suffix=".png")
    inspection = terms.admit(prompt, [], has_image=False)
    provenance = _provenance(file, made_with, prompt, terms, size=[frame.shape[1], frame.shape[0]], frames=1)
    (watched,) = inspection.watch([frame], 1)
    sealed = seal_picture(watched, provenance, out, marks=terms.marks, timestamp=terms.timestamp)
    inspection.remember(sealed, provenance)
    return sealed


def _provenance(file: Path, made_with: str, prompt: str, terms: Terms, **facts: JSON) -> Provenance:
    return Provenance(
        model=made_with,
        version=__version__,
        source_type="trainedAlgorithmicMedia",
        prompt=prompt,
        negative="",
        parameters={"adopted": True, **facts},
        inputs=(Input.of(file, "original", parent=True),),
        embed_prompt=terms.embed_prompt,
    )
