"""What a file proves about itself, as a report that programs and people can read.

It brings together what the file says (`reading`, `labels`), what is in its picture (`detect`) and what this
installation remembers (`record`), and puts it into one sentence. It does not know how a report is laid out for a
terminal (`card`). The four words for credentials:

    trusted     signed by this installation, or by somebody whose certificate it trusts, and unchanged since
    intact      signed by somebody unknown, and unchanged since; the signer's name is only its own claim
    tampered    credentials are there, and the file no longer is what was signed
    none        no credentials: nothing is known, least of all that a person made it
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import LichtspielError, MediaError
from lichtspiel.media import probe
from lichtspiel.media.picture import load_image
from lichtspiel.media.video import sample_video
from lichtspiel.seal import identity, labels, manifest, record

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = ["Credentials", "Ingredient", "Labels", "Report", "Signer", "State", "Watermark", "exit_code", "verify"]

State = Literal["trusted", "intact", "tampered", "none"]

_MAX_TEXT = 10_000  # of one value taken from a stranger's manifest

_UNREADABLE = (
    "Content credentials are there but make no sense to this program: they were damaged, or made by something newer. "
    "They prove nothing."
)

# IPTC digital source types in words; others are shown as they are.
SOURCES = {
    "trainedAlgorithmicMedia": "made by a generative model",
    "compositeWithTrainedAlgorithmicMedia": "partly made by a generative model",
    "algorithmicMedia": "drawn by a program, without a trained model",
    "digitalCapture": "recorded by a camera",
    "computationalCapture": "recorded by a camera, with computation",
    "humanEdits": "edited by a person",
}


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who signed, as the certificate says. Anybody can write any name into a certificate of their own."""

    name: str | None
    organisation: str | None
    serial: str | None


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """An input of the video: its role and what its own credentials said when the video was signed."""

    role: str
    relationship: str | None
    state: Literal["intact", "tampered", "none"]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What the content credentials say. In the state "tampered" all of it is what the broken record claims.

    `here` says that this installation signed. `time` is the time stamp of an authority that is trusted here, `created`
    the signer's own statement; both are ISO 8601. `generation` is the recorded request (see `credentials`), None when
    another product made the video.
    """

    state: State
    here: bool = False
    problems: tuple[str, ...] = ()
    signer: Signer | None = None
    time: str | None = None
    created: str | None = None
    id: str | None = None
    model: str | None = None
    software: str | None = None
    source_type: str | None = None
    generation: Mapping[str, Any] | None = None
    ingredients: tuple[Ingredient, ...] = field(default=())
    manifest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """Whether the picture carries the invisible mark, which id it spells (8 hex digits, if it can be read), how far it
    stands out in standard deviations, and whether left and right were exchanged."""

    found: bool
    id: str | None
    score: float
    mirrored: bool


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The unsigned tags of the file, which anybody can write: the AIGC label of GB 45438-2025, and the comment."""

    aigc: Mapping[str, Any] | None
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `verify` found: one sentence, and what it rests on. `record` is this installation's own entry about the
    video, found by the id in its credentials or in its watermark; `notes` say what could not be looked at."""

    path: str
    verdict: str
    credentials: Credentials
    watermark: Watermark
    labels: Labels
    record: record.Entry | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists, ready for `json.dumps`."""
        return {
            "path": self.path,
            "verdict": self.verdict,
            "credentials": dataclasses.asdict(self.credentials),
            "watermark": dataclasses.asdict(self.watermark),
            "labels": dataclasses.asdict(self.labels),
            "record": self.record.to_json() if self.record else None,
            "notes": list(self.notes),
        }


def verify(path: str | Path) -> Report:
    """Check what a video, or a picture taken from one, proves, without the network and without making anything here.

    Takes bounded time and memory whatever the file holds. Raises MediaError when it is missing, damaged, too large or
    neither a video nor a picture.
    """
    path = Path(path)
    found = probe.survey(path)
    said = Credentials(state="none")
    if found.mp4 or found.png:
        said = _credentials(manifest.read(path, identity.anchors(), identity.trusted_anchors()))
    try:
        seen = _watermark(path, found.mp4)
        tags = labels.read(path) if seen.video or found.png else labels.Tags(aigc=None, comment=None)
    except MediaError:
        if said.state == "none":
            raise
        seen, tags = _Seen(_NO_WATERMARK, video=True), labels.Tags(aigc=None, comment=None)
    notes: tuple[str, ...] = ()
    try:
        entry = _recorded(said, seen.mark)
    except LichtspielError as error:  # a damaged record says nothing about the file
        entry, notes = None, (str(error),)
    verdict = _sentence(said, seen.mark, entry)
    return Report(
        path=str(path),
        verdict=verdict.replace(" video", " picture") if found.png and said.state != "none" else verdict,
        credentials=said,
        watermark=seen.mark,
        labels=Labels(aigc=tags.aigc, comment=tags.comment),
        record=entry,
        notes=notes,
    )


def exit_code(report: Report) -> int:
    """What the command line returns: 0 when something is proven, 4 when nothing is, 5 when tampered. Tags prove
    nothing, since anybody can write them."""
    if report.credentials.state == "tampered":
        return 5
    return 0 if report.credentials.state != "none" or report.watermark.found else 4


_NO_WATERMARK = Watermark(found=False, id=None, score=0.0, mirrored=False)


@dataclass(frozen=True)
class _Seen:
    mark: Watermark
    video: bool


def _watermark(path: Path, mp4: bool) -> _Seen:
    """Look for the mark in a video, or in a picture if it is none."""
    from lichtspiel.seal import detect  # loads OpenCV

    frames = sample_video(path, detect.FRAMES)
    video = True
    try:
        first = next(frames, None)
    except MediaError:
        if mp4:
            raise
        first, frames, video = _picture(path), iter(()), False
    if first is None:
        raise MediaError(f"{path}: holds no frame; export it again")
    found = detect.detect(itertools.chain([first], frames))
    id = f"{found.id:08x}" if found.id is not None else None
    return _Seen(Watermark(found=found.found, id=id, score=round(found.score, 2), mirrored=found.mirrored), video)


def _picture(path: Path) -> Frame:
    try:
        return load_image(path)
    except MediaError as error:
        raise MediaError(f"{path}: is neither a video nor a picture that can be read, or is damaged") from error


def _recorded(said: Credentials, mark: Watermark) -> record.Entry | None:
    """This installation's entry: by the id that it signed itself, else the newest of those with the watermark's id. An
    id that somebody else signed is theirs to choose, and says nothing of our record."""
    if said.id is not None and said.here and said.state == "trusted":
        return record.find(said.id)
    return next(iter(record.find_watermark(int(mark.id, 16))), None) if mark.id is not None else None


def _sentence(said: Credentials, mark: Watermark, entry: record.Entry | None) -> str:
    """The verdict."""
    name = (said.signer and said.signer.name) or "somebody"
    sentence = {
        "trusted": "This installation sealed this video, and nothing has been changed since."
        if said.here
        else f"Signed by {name!r}, whom this installation trusts, and nothing has been changed since.",
        "intact": "Somebody else signed this video, and nothing has been changed since. "
        "Who they are is their own claim: no authority was asked.",
        "tampered": "This video was signed once and has been changed since: its record can no longer be relied on.",
        "none": "No content credentials were found. That proves nothing: they are lost when a video is re-encoded.",
    }[said.state]
    if said.state == "tampered" and said.manifest is None:
        sentence = _UNREADABLE
    if said.state == "none" and mark.found:
        sentence = _marked(mark, entry)
    if said.state == "tampered" and mark.found:
        sentence += " Its watermark says that it is AI-generated, marked by Lichtspiel."
    if altered := [entry.role for entry in said.ingredients if entry.state == "tampered"]:
        sentence += f" It was made from an input that had been changed after it was signed: {', '.join(altered)}."
    return sentence


def _marked(mark: Watermark, entry: record.Entry | None) -> str:
    if entry is not None:
        day = entry.created.strftime("%Y-%m-%d")
        return (
            f"AI-generated with {entry.model}: this installation sealed it on {day}, as its watermark says. "
            "It has been re-encoded or edited since."
        )
    which = f"id {mark.id}, which is not in this installation's record" if mark.id else "the id cannot be read any more"
    return f"AI-generated, marked by Lichtspiel, as its watermark says ({which}). Its credentials are gone."


def _credentials(read: manifest.Reading) -> Credentials:
    if read.state == "none":
        return Credentials(state="none")
    claim = read.manifest
    assertions = [entry for entry in _list(claim.get("assertions")) if isinstance(entry, Mapping)]
    generation = manifest.record(claim)
    actions = [
        _dict(action)
        for entry in assertions
        if str(entry.get("label")).startswith("c2pa.actions")
        for action in _list(_dict(entry.get("data")).get("actions"))
    ]
    source = next((text for action in actions if (text := _text(action.get("digitalSourceType")))), None)
    signature = _dict(claim.get("signature_info"))
    generator = _dict(next(iter(_list(claim.get("claim_generator_info"))), None))
    return Credentials(
        state="tampered" if read.state == "tampered" else "trusted" if read.trusted else "intact",
        here=read.ours,
        problems=read.problems,
        signer=Signer(
            name=_text(signature.get("common_name")),
            organisation=_text(signature.get("issuer")),
            serial=_text(signature.get("cert_serial_number")),
        )
        if signature
        else None,
        time=_text(signature.get("time")) if read.stamped else None,  # any signer may have an authority of their own
        created=next((text for action in actions if (text := _text(action.get("when")))), None),
        id=_text((generation or {}).get("id")),
        model=_text((generation or {}).get("model")),
        software=" ".join(filter(None, (_text(generator.get("name")), _text(generator.get("version"))))) or None,
        source_type=source.rsplit("/", 1)[-1] if source else None,
        generation=generation,
        ingredients=tuple(_ingredient(_dict(entry)) for entry in _list(claim.get("ingredients"))),
        manifest=_text(claim.get("label")),
    )


def _ingredient(entry: Mapping[str, Any]) -> Ingredient:
    return Ingredient(
        role=_text(entry.get("title")) or "unnamed",
        relationship=_text(entry.get("relationship")),
        state=manifest.ingredient_state(entry),
    )


def _text(value: object) -> str | None:
    return value[:_MAX_TEXT] if isinstance(value, str) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
