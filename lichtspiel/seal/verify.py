"""Verify a file: what it proves about its origin, as a report for programs and people.

A report combines what the file says (`manifest`, `labels`), what its pixels carry (`detect`) and what this installation
has recorded (`record`), and sums it up in a verdict. Formatting the report for a terminal is left to `report`.
Credentials are in one of four states:

    trusted     signed by this installation or by somebody whose certificate it trusts, and unchanged since
    intact      signed by somebody unknown, and unchanged since; the signer's name is only the signer's own claim
    tampered    the file has credentials, but is no longer what was signed
    none        no credentials: nothing is known, and certainly not that a person made it
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import LichtspielError, MediaError, OutOfMemory
from lichtspiel.media import probe
from lichtspiel.media.animation import animation_size, is_animation, read_animation
from lichtspiel.media.picture import load_image
from lichtspiel.media.sheet import spread
from lichtspiel.media.video import sample_video, video_info
from lichtspiel.seal import identity, labels, manifest, record
from lichtspiel.storage import file_sha256

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = [
    "PROOFS",
    "Credentials",
    "Ingredient",
    "Labels",
    "Proof",
    "Report",
    "Signer",
    "State",
    "Watermark",
    "exit_code",
    "proof",
    "verify",
]

State = Literal["trusted", "intact", "tampered", "none"]
Proof = Literal["trusted", "sealed", "watermark"]
RecordMatch = Literal["credentials", "watermark", "sha256"]

PROOFS: tuple[Proof, ...] = ("trusted", "sealed", "watermark")
"""What a file can prove, strongest first; see `proof`."""

_MAX_TEXT = 10_000  # characters of one value from an untrusted manifest

_UNREADABLE = (
    "Content credentials are there but make no sense to this program: they were damaged, or made by something newer. "
    "They prove nothing."
)

# Descriptions of IPTC digital source types; other types are shown unchanged.
SOURCES = {
    "trainedAlgorithmicMedia": "made by a generative model",
    "compositeWithTrainedAlgorithmicMedia": "partly made by a generative model",
    "algorithmicMedia": "drawn by a program, without a trained model",
    "compositeSynthetic": "partly made by a program",
    "digitalCapture": "recorded by a camera",
    "computationalCapture": "recorded by a camera, with computation",
    "humanEdits": "edited by a person",
}


@dataclass(frozen=True, kw_only=True)
class Signer:
    """The signer, as named in the certificate. Anybody can put any name into a certificate of their own."""

    name: str | None
    organisation: str | None
    serial: str | None


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """An input of the video: its role, and the state of its own credentials when the video was signed."""

    role: str
    relationship: str | None
    state: Literal["intact", "tampered", "none"]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The contents of the content credentials. In the state "tampered", they are only what the broken manifest claims.

    `here` is true if this installation signed the file. `time` is the time stamp of an authority that this installation
    trusts, `created` is the signer's own statement; both are ISO 8601. `generation` is the recorded request (see
    `credentials`), or None if another product made the video.
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
    """Whether the picture carries the watermark, its id (8 hex digits, if readable), the detection score in standard
    deviations, and whether the picture is mirrored left to right."""

    found: bool
    id: str | None
    score: float
    mirrored: bool


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The unsigned tags of the file, which anybody can write: the AIGC label of GB 45438-2025, the comment, and in XMP
    the IPTC digital source type."""

    aigc: Mapping[str, Any] | None
    comment: str | None
    source_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of `verify`: a verdict in a sentence or two, and the evidence for it.

    `record` is this installation's own entry about the video, and `record_match` says how it was found: by the id in
    the credentials, the id in the watermark, or the digest of the file. `notes` list what could not be examined.
    """

    path: str
    verdict: str
    credentials: Credentials
    watermark: Watermark
    labels: Labels
    record: record.Entry | None
    record_match: RecordMatch | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists for `json.dumps`."""
        return {
            "path": self.path,
            "verdict": self.verdict,
            "credentials": dataclasses.asdict(self.credentials),
            "watermark": dataclasses.asdict(self.watermark),
            "labels": dataclasses.asdict(self.labels),
            "record": self.record.to_json() if self.record else None,
            "record_match": self.record_match,
            "notes": list(self.notes),
        }


def verify(path: str | Path, *, with_record: bool = True, store: record.Store = record) -> Report:
    """Verify a video, or a picture taken from one, without using the network or writing anything.

    `store` is the record to consult, by default that of this installation. Without `with_record` none is, so a report
    for strangers reveals nothing from it. Time and memory are bounded whatever the file contains. Raises MediaError
    when the file is missing, damaged, too large or neither a video nor a picture, and OutOfMemory. It raises nothing
    else, because untrusted files make parsers fail in unexpected ways.
    """
    path = Path(path)
    try:
        return _verify(path, store if with_record else None)
    except LichtspielError:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"{path}: the memory of this machine does not suffice to read it; try it alone") from error
    except Exception as error:
        raise MediaError(f"{path}: cannot be read ({type(error).__name__}: {error}); export it again") from error


def _verify(path: Path, store: record.Store | None) -> Report:
    kind = probe.survey(path)
    credentials = Credentials(state="none")
    if kind.mime is not None:
        credentials = _credentials(manifest.read(path, identity.anchors(), identity.trusted_anchors()))
    try:
        pixels = _pixels(path, kind.mp4)
        tags = labels.read(path) if pixels.tagged or kind.mime else labels.Tags(aigc=None, comment=None)
    except MediaError:
        if credentials.state == "none":
            raise
        pixels, tags = _Pixels(_NO_WATERMARK), labels.Tags(aigc=None, comment=None)
    entry, match, notes = None, None, tuple[str, ...]()
    try:
        if store is not None:
            entry, match = _recorded(path, credentials, pixels.watermark, store)
    except LichtspielError as error:  # a damaged record says nothing about the file
        notes = (str(error),)
    verdict = _sentence(credentials, pixels, entry, match)
    if match is None and store is not None and not notes and credentials.state == "none" and pixels.watermark.id:
        verdict += " This installation's record has no video with its id."
    return Report(
        path=str(path),
        verdict=_about_picture(verdict) if pixels.picture else verdict,
        credentials=credentials,
        watermark=pixels.watermark,
        labels=Labels(aigc=tags.aigc, comment=tags.comment, source_type=tags.source_type),
        record=entry,
        record_match=match,
        notes=notes,
    )


def proof(report: Report) -> Proof | None:
    """The strongest proof that a file offers.

    It is "trusted" for credentials by this installation or a trusted signer, "sealed" for credentials by anyone else,
    "watermark" for the watermark alone or an entry in this installation's record, and None if the file proves nothing
    or was tampered with. Tags prove nothing, because anybody can write them.
    """
    if report.credentials.state == "trusted":
        return "trusted"
    if report.credentials.state == "intact":
        return "sealed"
    has_mark = report.watermark.found or report.record is not None
    return "watermark" if has_mark and report.credentials.state == "none" else None


def exit_code(report: Report, require: Proof = "watermark") -> int:
    """The exit code for the command line: 0 if the file proves at least what is required, 5 if it was tampered with,
    otherwise 4."""
    if report.credentials.state == "tampered":
        return 5
    shown = proof(report)
    return 0 if shown is not None and PROOFS.index(shown) <= PROOFS.index(require) else 4


_NO_WATERMARK = Watermark(found=False, id=None, score=0.0, mirrored=False)
_MAX_ANIMATION = 1440  # frames to decode of an animation
# Pixels to which frames are reduced as they are read. The detector reduces them much further, and a file from a
# stranger must not take gigabytes. Of an animation, some hundred frames are in memory at once.
_FRAME_PIXELS, _ANIMATION_PIXELS = 1920 * 1088, 1024 * 576


@dataclass(frozen=True)
class _Pixels:
    """What the pixels show: the watermark, the size and the number of frames (0 if unknown). `tagged` is true if the
    container format can hold tags."""

    watermark: Watermark
    width: int = 0
    height: int = 0
    frames: int = 0
    picture: bool = False
    tagged: bool = False


def _pixels(path: Path, mp4: bool) -> _Pixels:
    """Look for the watermark in a video, an animation or a picture."""
    from lichtspiel.seal import detect  # loads OpenCV

    frames: Iterator[Frame] = sample_video(path, detect.FRAMES, _FRAME_PIXELS)
    picture, tagged, count = False, True, 0
    try:
        first = next(frames, None)
        info = video_info(path)
        size, count = (info.width, info.height), info.frames
    except MediaError:
        if mp4:
            raise
        tagged = False
        if is_animation(path):
            decoded = itertools.islice(read_animation(path, _ANIMATION_PIXELS), _MAX_ANIMATION)
            frames, size = iter(spread(decoded, detect.FRAMES)), animation_size(path)
            first = next(frames, None)
        else:
            first, frames, picture, count = _picture(path), iter(()), True, 1
            size = first.shape[1], first.shape[0]
    if first is None:
        raise MediaError(f"{path}: holds no frame; export it again")
    result = detect.detect(itertools.chain([first], frames))
    id = f"{result.id:08x}" if result.id is not None else None
    mark = Watermark(found=result.found, id=id, score=round(result.score, 2), mirrored=result.mirrored)
    return _Pixels(mark, *size, count, picture, tagged)


def _picture(path: Path) -> Frame:
    try:
        return load_image(path)
    except MediaError as error:
        raise MediaError(f"{path}: is neither a video nor a picture that can be read, or is damaged") from error


def _recorded(
    path: Path, credentials: Credentials, mark: Watermark, store: record.Store
) -> tuple[record.Entry | None, RecordMatch | None]:
    """Find the record's entry about a file, and say how it was found.

    The search uses the id in credentials that this installation signed, then the id in the watermark (newest entry),
    then the digest of the whole file. Other signers can choose any id, so an id that they signed is not looked up.
    """
    if credentials.id is not None and credentials.here and credentials.state == "trusted":
        entry = store.find(credentials.id)
        return entry, "credentials" if entry else None
    if mark.id is not None and (entries := store.find_watermark(int(mark.id, 16))):
        return entries[0], "watermark"
    if credentials.state == "none" and (entry := store.find_sha256(file_sha256(path))) is not None:
        return entry, "sha256"
    return None, None


def _sentence(credentials: Credentials, pixels: _Pixels, entry: record.Entry | None, match: RecordMatch | None) -> str:
    """The verdict in words."""
    name = (credentials.signer and credentials.signer.name) or "somebody"
    unchanged = "and its picture, sound and credentials are as they were signed."
    sentence = {
        "trusted": f"This installation sealed this video, {unchanged}"
        if credentials.here
        else f"{name!r}, whom this installation trusts, signed this video, {unchanged}",
        "intact": f"Somebody else signed this video, {unchanged} "
        "Who they are is their own claim: no authority was asked.",
        "tampered": "This video was signed once and has been changed since: its record can no longer be relied on.",
        "none": "No content credentials were found. That proves nothing: they are lost when a video is re-encoded.",
    }[credentials.state]
    if credentials.state == "tampered" and credentials.manifest is None:
        sentence = _UNREADABLE
    if credentials.state == "none" and match == "sha256" and entry is not None:
        reason = f" without marks ({entry.reason})" if entry.reason else ""
        day = entry.created.strftime("%Y-%m-%d")
        sentence = f"This file, byte for byte, left this installation on {day}{reason}. It was made with {entry.model}."
    elif credentials.state == "none" and pixels.watermark.found:
        sentence = _watermark_sentence(pixels, entry)
    if credentials.state == "tampered" and pixels.watermark.found:
        sentence += " Its watermark says that it is AI-generated, marked by Lichtspiel."
    if altered := [entry.role for entry in credentials.ingredients if entry.state == "tampered"]:
        sentence += f" It was made from an input that had been changed after it was signed: {', '.join(altered)}."
    return sentence


def _about_picture(verdict: str) -> str:
    verdict = verdict.replace("its picture, sound and credentials", "its pixels and credentials")
    return verdict.replace("this video", "this picture").replace("This video", "This picture")


_COPIES = "A mark stays when a video is re-encoded or edited, but it can also be copied onto another one."


def _watermark_sentence(pixels: _Pixels, entry: record.Entry | None) -> str:
    """The verdict on a file that has a watermark but no credentials."""
    if entry is None:
        id = f"with the id {pixels.watermark.id}" if pixels.watermark.id else "whose id cannot be read any more"
        return (
            f"This video bears the mark of an AI-generated video, marked by Lichtspiel, {id}. "
            f"Its credentials are gone. {_COPIES}"
        )
    day = entry.created.strftime("%Y-%m-%d")
    sentence = f"This video bears the mark of a video sealed here on {day}, AI-generated with {entry.model}. {_COPIES}"
    return f"{sentence}{_difference(pixels, entry.request)}"


def _difference(pixels: _Pixels, request: Mapping[str, Any]) -> str:
    """A sentence on how a file differs from the recorded video in size and number of frames; empty if it does not."""
    size, factor = request.get("size"), request.get("upscale")
    sealed, file = [], []
    if isinstance(size, list) and len(size) == 2:
        width, height = (side * factor if isinstance(factor, int) else side for side in size)
        if (width, height) != (pixels.width, pixels.height):
            sealed.append(f"{width}x{height} pixels")
            file.append(f"{pixels.width}x{pixels.height}")
    count = request.get("frames")
    if isinstance(count, int) and not pixels.picture and pixels.frames not in (0, count):
        sealed.append(f"{count} frames")
        file.append(f"{pixels.frames}")
    if not sealed:
        return ""
    return (
        f" The sealed video has {' and '.join(sealed)}, this file {' and '.join(file)}: "
        "it was edited, or is another one."
    )


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
        time=_text(signature.get("time")) if read.stamped else None,  # any signer can run an authority of their own
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
