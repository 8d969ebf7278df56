"""How a worker translates: a draft of the words, or the video made of one. No model of video is loaded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lichtspiel import __version__
from lichtspiel.seal import Input, Provenance
from lichtspiel.serve.api.translation_form import DRAFT, draft_of, without_flags
from lichtspiel.serve.queue.jobs import Job
from lichtspiel.serve.settings import Settings
from lichtspiel.workflows.terms import Terms
from lichtspiel.workflows.translate import Job as Wanted
from lichtspiel.workflows.translate import draft, translate
from lichtspiel.workflows.translate_picture import told

__all__ = ["VOICES", "make", "still"]

VOICES = ("espeak", "espeak:+f3")
"""What speaks where the operator names no voice: one for each of two speakers."""


def make(
    job: Job,
    files: Mapping[str, Path],
    out: Path,
    settings: Settings,
    terms: Terms,
    *,
    name: str,
    device: str,
    progress: Callable[[str, float], None],
) -> dict[str, Any]:
    """Bring a job of translation to its end, with a video at `out` unless it is a draft, which the record knows as
    `name`. What makes text in the picture anew runs on `device`. Returns the result that the queue keeps."""
    began = time.monotonic()
    asked = job.request
    wanted = Wanted(
        target=asked["to"], source=asked["from"], transcriber=settings.transcriber, translator=settings.translator,
        transcript=files.get("transcript"), subtitles=files.get("subtitles"), glossary=files.get("glossary"),
    )  # fmt: skip
    if job.model == DRAFT:
        found = draft(files["video"], wanted, progress=progress)
        written, notes = None, list(found.notes)
        if asked.get("picture_text") is not None:
            known = asked["from"] or (None if found.source == "und" else found.source)
            reading = dataclasses.replace(wanted, source=known, picture_text=asked["picture_text"])
            texts, more = told(files["video"], reading)
            written, notes = [one.to_json() for one in texts], [*notes, *more]
        return {
            "from": found.source, "before": [dataclasses.asdict(line) for line in found.before],
            "lines": [dataclasses.asdict(line) for line in found.lines], "engines": found.engines,
            "pitches": found.pitches, "notes": [without_flags(note) for note in notes], "written": written,
            "timings": {"total": time.monotonic() - began},
        }  # fmt: skip
    drafted = draft_of(asked)
    speakers = 1 + max(line.speaker for line in drafted.lines)
    voices = (settings.voices or VOICES)[:speakers] if asked["voice"] else ()
    wanted = dataclasses.replace(
        wanted,
        voices=voices,
        original=asked["original"],
        burn=asked["burn"],
        both=asked["both"],
        spoken_label=asked.get("spoken_label", False),
        lips=settings.lips if asked.get("lips") else None,
        picture_text="replace" if asked.get("written") else None,
        picture_weights=settings.weights,
        picture_options={"model": asked.get("picture_model"), "device": device},
    )
    terms = dataclasses.replace(terms, consent=asked["consent"])
    made = translate(files["video"], out, wanted, terms=terms, drafted=drafted, name=name, progress=progress)
    sealed = made.sealed.to_json()
    sealed.pop("path", None)
    return {
        "seal": sealed, "lines": made.lines, "engines": made.engines, "picture": made.picture, "notes": made.notes,
        "written": made.written,
        "timings": {"total": time.monotonic() - began}, "bytes": out.stat().st_size,
    }  # fmt: skip


def still(video: Path) -> Provenance:
    """What the seal of a still from a translated video says: it is taken from it, and nothing of it was generated."""
    return Provenance(
        model="", version=__version__, source_type="humanEdits", prompt="", negative="",
        parameters={"thumbnail": True}, inputs=(Input.of(video, "original", parent=True),),
    )  # fmt: skip
