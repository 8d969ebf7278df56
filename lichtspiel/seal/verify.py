"""What a video proves about itself, as a report that programs and people can read.

It knows how to word a reading of content credentials; it does not know the C2PA library (`credentials`) nor how a
report is laid out for a terminal (`card`).

    sealed here       signed by this installation, unchanged since
    sealed elsewhere  signed by another one or another product, unchanged since; the signer's name is only its own claim
    tampered          credentials are there, and the file no longer is what was signed
    none              no credentials: nothing is known, least of all that a person made it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lichtspiel import container
from lichtspiel.errors import MediaError
from lichtspiel.seal import credentials, keys

__all__ = ["Ingredient", "Report", "Signer", "State", "exit_code", "verify"]

State = Literal["sealed here", "sealed elsewhere", "tampered", "none"]

_MAX_TEXT = 10_000  # of one value taken from a stranger's manifest

_VERDICTS: dict[State, str] = {
    "sealed here": "This installation made and signed this video, and nothing has been changed since.",
    "sealed elsewhere": "Somebody else signed this video, and nothing has been changed since. "
    "Who they are is their own claim: no authority was asked.",
    "tampered": "This video was signed once and has been changed since: its record can no longer be relied on.",
    "none": "No content credentials were found. That proves nothing: they are lost when a video is re-encoded.",
}

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
class Report:
    """What `verify` found. In the state "tampered" every field below `problems` is what the broken record claims.

    `time` is a trusted time stamp, `created` the signer's own statement; both are ISO 8601. `generation` is the
    recorded request (see `credentials`), None when another product made the video.
    """

    path: str
    state: State
    verdict: str
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

    def to_json(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists, ready for `json.dumps`."""
        return dataclasses.asdict(self)


def verify(path: str | Path) -> Report:
    """Check a video's content credentials, without the network and without making an identity for this installation.

    Takes bounded time and memory whatever the file holds. Raises MediaError when it is missing, damaged, too large or
    no video.
    """
    path = Path(path)
    reading = credentials.read(path, keys.anchor()) if container.survey(path).mp4 else credentials.Reading("none")
    if reading.state == "none":
        _check_video(path)
        return Report(path=str(path), state="none", verdict=_VERDICTS["none"])
    state: State = "tampered" if reading.state == "tampered" else "sealed here" if reading.ours else "sealed elsewhere"
    return _report(path, state, reading)


def exit_code(report: Report) -> int:
    """What the command line returns: 0 when something is proven, 4 when nothing was found, 5 when tampered."""
    return {"sealed here": 0, "sealed elsewhere": 0, "none": 4, "tampered": 5}[report.state]


def _report(path: Path, state: State, reading: credentials.Reading) -> Report:
    manifest = reading.manifest
    assertions = [entry for entry in _list(manifest.get("assertions")) if isinstance(entry, Mapping)]
    generation = credentials.record(manifest)
    actions = [
        _dict(action)
        for entry in assertions
        if str(entry.get("label")).startswith("c2pa.actions")
        for action in _list(_dict(entry.get("data")).get("actions"))
    ]
    source = next((text for action in actions if (text := _text(action.get("digitalSourceType")))), None)
    signature = _dict(manifest.get("signature_info"))
    generator = _dict(next(iter(_list(manifest.get("claim_generator_info"))), None))
    ingredients = tuple(_ingredient(_dict(entry)) for entry in _list(manifest.get("ingredients")))
    verdict = _VERDICTS[state] if manifest else _UNREADABLE
    if altered := [entry.role for entry in ingredients if entry.state == "tampered"]:
        verdict += f" It was made from an input that had been changed after it was signed: {', '.join(altered)}."
    return Report(
        path=str(path),
        state=state,
        verdict=verdict,
        problems=reading.problems,
        signer=Signer(
            name=_text(signature.get("common_name")),
            organisation=_text(signature.get("issuer")),
            serial=_text(signature.get("cert_serial_number")),
        )
        if signature
        else None,
        time=_text(signature.get("time")),
        created=next((text for action in actions if (text := _text(action.get("when")))), None),
        id=_text((generation or {}).get("id")),
        model=_text((generation or {}).get("model")),
        software=" ".join(filter(None, (_text(generator.get("name")), _text(generator.get("version"))))) or None,
        source_type=source.rsplit("/", 1)[-1] if source else None,
        generation=generation,
        ingredients=ingredients,
        manifest=_text(manifest.get("label")),
    )


def _ingredient(entry: Mapping[str, Any]) -> Ingredient:
    return Ingredient(
        role=_text(entry.get("title")) or "unnamed",
        relationship=_text(entry.get("relationship")),
        state=credentials.ingredient_state(entry),
    )


def _check_video(path: Path) -> None:
    """Nothing was found: say so only of a video. Formats are listed, because FFmpeg also "plays" text and playlists,
    which may name other files and addresses."""
    import av

    options = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"}
    try:
        with av.open(f"file:{path.absolute()}", options=options) as opened:
            found = bool(opened.streams.video)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{path}: is no video that can be read, or is damaged ({error})") from error
    if not found:
        raise MediaError(f"{path}: holds no video")


def _text(value: object) -> str | None:
    return value[:_MAX_TEXT] if isinstance(value, str) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
