"""Judge one existing video, and draw the evidence: the stills that objections are about, as a sealed sheet.

It fails closed: a file that cannot be read, or that an extractor cannot look at, needs a person's review.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel import __version__
from lichtspiel.errors import MediaError
from lichtspiel.media.media import media_sha256
from lichtspiel.media.scan import scan
from lichtspiel.media.sheet import contact_sheet
from lichtspiel.seal import Input, Marks, Provenance, seal_picture
from lichtspiel.understand.analysis import Settings, analyze
from lichtspiel.understand.moderation import LOOKING, Judgment, Thresholds, judge
from lichtspiel.understand.store import Index

if TYPE_CHECKING:
    from lichtspiel.policy.prompts import Policy

__all__ = ["made_by_ai", "moderate", "write_evidence", "write_sheets"]

_REASON = "stills of a given video, as evidence of its moderation; nothing was generated"


def moderate(
    path: Path, folder: Path, *, thresholds: Thresholds | None = None, policy: Policy | None = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> tuple[Judgment, bool]:  # fmt: skip
    """The judgment on a video or picture, and whether it is marked as made by AI. `folder` is for files in between.

    `progress` is told of each thing that is looked for, and may raise to stop.
    """
    index = Index(folder / "moderation.sqlite", create=True)
    status = path.stat()
    try:
        try:
            index.add(analyze(path, Settings(names=LOOKING), "", progress), status.st_size, status.st_mtime_ns)
        except MediaError as error:
            index.add_failure(path, status.st_size, status.st_mtime_ns, str(error))
        judgment = judge(index, str(path), thresholds, policy)
        return judgment, made_by_ai(index, judgment.digest)
    finally:
        index.close()


def made_by_ai(index: Index, digest: str) -> bool:
    """Whether a file of the index is marked as made by AI."""
    return any(found.values.get("ai", 0) > 0 for found in index.finding_rows(digest, "origin"))


def write_sheets(index: Index, judgments: Iterable[Judgment], folder: Path) -> None:
    """Write a sheet of evidence into a folder for each video that has some, named after the video and its digest: files
    of one name in several folders do not replace each other's."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in judgments:
        sheet = folder / f"{Path(one.path).stem}-{one.digest[:8]}.png"
        write_evidence(one, Path(one.path), sheet, made=made_by_ai(index, one.digest))


def write_evidence(judgment: Judgment, path: Path, out: Path, *, made: bool) -> bool:
    """Write a contact sheet (PNG) of the stills that the objections are about; returns whether there are any.

    `made` says whether the video is marked as made by AI.

    Where no objection has a time, because something could not be looked at, the sheet shows the whole video. The sheet
    of a video that a model made is sealed as such, with the video as its parent. Others bear no marks. Raises
    MediaError for a file that cannot be read.
    """
    if not judgment.objections or not judgment.digest:  # a file that could not be read has no digest
        return False
    found = scan(path)
    spans = [(reason.start, reason.end) for reason in judgment.objections if reason.end > reason.start]
    spans = spans or [(0.0, found.duration)]
    stills = [
        still
        for time, still in zip(found.still_times, found.stills, strict=True)
        if any(start <= time <= end for start, end in spans)
    ]
    if not stills:
        return False
    import numpy as np

    inputs: tuple[Input, ...] = ()
    if made:
        with contextlib.suppress(MediaError):
            inputs = (Input.of(path, "video", parent=True),)
    provenance = Provenance(
        model="unknown" if made else "none", version=__version__,
        source_type="trainedAlgorithmicMedia" if made else "algorithmicMedia", prompt="", negative="",
        parameters={"sheet_of": media_sha256(path)}, inputs=inputs,
    )  # fmt: skip
    marks = Marks.of("eu") if made else Marks.none(_REASON)
    seal_picture(np.asarray(contact_sheet(stills)), provenance, out, marks=marks)
    return True
