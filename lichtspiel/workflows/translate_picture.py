"""Text in the picture of a translated video: what is written, when and where, in both languages; and the picture with
it in the new one, made by a VACE model where each text stands, while it stands there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.errors import InvalidInput
from lichtspiel.seal import seal
from lichtspiel.translate import translators
from lichtspiel.translate.glossary import Glossary
from lichtspiel.translate.lines import Line, Written
from lichtspiel.understand.footage import Footage
from lichtspiel.understand.ocr import Text
from lichtspiel.workflows.clips import Clip, even, plain_marks, provenance_of_clip, read_clip
from lichtspiel.workflows.edits import Edit
from lichtspiel.workflows.terms import Terms

if TYPE_CHECKING:
    from lichtspiel.frames import Frame
    from lichtspiel.workflows.translate_words import Job

__all__ = ["Written", "missing", "read_picture", "replaced", "told"]

_ROOM = 0.25
"""How far the part that is made anew reaches beyond a text, as a share of its height: letters have shadows."""


def missing() -> str | None:
    """What has to be installed before pictures can be read; None if nothing."""
    return Text().missing()


def told(video: Path, job: Job) -> tuple[list[Written], list[str]]:
    """What `read_picture` says, with the glossary of the job."""
    return read_picture(video, job, Glossary.read(job.glossary) if job.glossary else Glossary())


def read_picture(video: Path, job: Job, glossary: Glossary) -> tuple[list[Written], list[str]]:
    """What is written in a video, with its translation, and what the user should know. Raises InvalidInput where
    nothing here reads pictures, or where it has to be translated and nothing can."""
    if (extra := missing()) is not None:
        raise InvalidInput(f"--picture-text {job.picture_text}: nothing here reads text in pictures; {extra}")
    found = [
        Written(one.start, one.end, one.text, one.box) for one in Text().extract(Footage(video)) if one.box is not None
    ]
    if not found:
        return [], ["no text was found in the picture"]
    lines = [Line(one.start, one.end, one.text) for one in found]
    source = job.source or "en"
    try:
        translator = translators.choose(job.translator, source, job.target)
    except InvalidInput as error:
        if job.picture_text == "replace":
            raise
        return found, [f"the text in the picture is not translated: {error}"]
    done = translators.translate(translator, lines, source, job.target, glossary)
    return [dataclasses.replace(one, translation=line.text) for one, line in zip(found, done.lines, strict=True)], [
        f"text in the picture, {note}" for note in done.notes
    ]


def replaced(
    video: Path, texts: Sequence[Written], job: Job, terms: Terms, folder: Path,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> Path:  # fmt: skip
    """The video with each text in its new language, in a file in `folder`, sealed as an edit of the video.

    Raises WeightsError where the VACE model is not here.
    """
    from lichtspiel.workflows.edit import EditJob, edit  # these import torch, and a server asks only what is `missing`
    from lichtspiel.workflows.generate import Observer

    clip = read_clip(video)
    edits = [
        Edit.of({"add": _mask(clip, one, terms, folder / f"text-{number}.mp4")}, _prompt(one))
        for number, one in enumerate(texts, 1)
    ]
    out = folder / "picture.mp4"
    edit(video, EditJob(edits=edits, out=out, options=dict(job.picture_options), weights=job.picture_weights or None,
                        terms=terms, observer=Observer(progress=progress)))  # fmt: skip
    return out


def _prompt(one: Written) -> str:
    return f'the same picture, with the text "{one.translation}" written there in the same style'


def _mask(clip: Clip, one: Written, terms: Terms, path: Path) -> Path:
    """A film of the clip's size, white where the text is while it is shown."""
    provenance = provenance_of_clip(
        clip, terms, model="rapidocr", source_type="algorithmicMedia", prompt="", parameters={"text": one.text}
    )
    film = even(_film(clip, one))
    return seal(film, provenance, path, fps=clip.fps, marks=plain_marks(terms.marks)).path


def _film(clip: Clip, one: Written) -> Iterator[Frame]:
    import numpy as np

    width, height = clip.size
    left, top, right, bottom = one.box
    room = _ROOM * (bottom - top) * height
    rows = slice(max(round(top * height - room), 0), round(bottom * height + room))
    columns = slice(max(round(left * width - room), 0), round(right * width + room))
    white = np.zeros((height, width, 3), np.uint8)
    white[rows, columns] = 255
    black = np.zeros_like(white)
    for number in range(len(clip.frames)):
        yield white if one.start <= float(number / clip.fps) < one.end else black
