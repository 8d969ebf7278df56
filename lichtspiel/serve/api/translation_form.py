"""What a client sends to have a video translated: the video for a draft, and the lines for the video made of it.

A translation takes two jobs. The first hears and translates, and ends with lines; the second makes the video of the
lines as the client has left them. This module turns both requests into what the queue keeps, and back.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from lichtspiel.errors import InvalidInput, RequestError
from lichtspiel.media.sound import has_sound
from lichtspiel.media.video import video_info
from lichtspiel.options import closest
from lichtspiel.serve.api.form import read_metadata
from lichtspiel.serve.queue.jobs import DRAFT, Job
from lichtspiel.serve.settings import Settings
from lichtspiel.spec import model
from lichtspiel.translate import tongues, translators
from lichtspiel.translate.announce import WORDS
from lichtspiel.translate.glossary import Glossary
from lichtspiel.translate.lines import Line
from lichtspiel.workflows import translate_picture
from lichtspiel.workflows.terms import read_consent
from lichtspiel.workflows.translate_words import Draft

__all__ = [
    "DRAFT",
    "KINDS",
    "RENDER",
    "DraftForm",
    "RenderForm",
    "available",
    "draft_of",
    "read_draft",
    "read_render",
    "remaker",
    "without_flags",
]

RENDER = "translation"
"""What the queue calls a job that makes the video of a draft, in place of a model."""

KINDS = (DRAFT, RENDER)

FILES = ("video", "transcript", "subtitles", "glossary")
DRAFT_FIELDS = ("to", "from", "picture_text", "metadata")
RENDER_FIELDS = ("lines", "voice", "original", "spoken_label", "lips", "burn", "both", "picture_text", "texts",
                 "consent", "metadata")  # fmt: skip

MAX_LINES, MAX_LINE = 2400, 1000
"""The most lines of a video, and the most characters of one."""

MAX_TEXT = 200
"""The most characters of a text in the picture; models write few."""

MAX_SHOWN = 1000
"""How many characters of the words stand where other videos have their prompt."""

SUFFIXES = (("WEBVTT", ".vtt"), ("[Script Info]", ".ass"))


def available() -> bool:
    """Whether what translations need is installed."""
    return find_spec("pysubs2") is not None


@dataclass(frozen=True)
class DraftForm:
    """A checked request for a draft: what the queue keeps of it, its files, a digest, and the seconds of the video."""

    request: dict[str, Any]
    files: dict[str, Path]
    digest: str
    seconds: float


@dataclass(frozen=True)
class RenderForm:
    """A checked request for the video of a draft. `lines` are as the client wants them, and so are the `texts` that
    take the place of those in the picture."""

    request: dict[str, Any]
    lines: tuple[Line, ...]
    texts: tuple[str, ...]
    consent: str | None
    voice: bool


def read_draft(
    fields: Mapping[str, Any], uploads: Mapping[str, Sequence[BinaryIO]], folder: Path, settings: Settings
) -> DraftForm:
    """Check a request for a draft and write its files to `folder`. Raises RequestError, which names the field, or
    MediaError for a video that cannot be read."""
    values = {name: value for name, value in fields.items() if value is not None}
    _check_names(values, DRAFT_FIELDS)
    files = {name: _written(name, uploads[name], folder) for name in FILES if name in uploads}
    for name in uploads:
        if name not in FILES:
            raise RequestError(name, "a file", f"files are sent as {', '.join(FILES)}")
    if "video" not in files:
        raise RequestError("video", None, 'say which video: one upload, or {"id": "video_..."} of one made here')
    target = _language("to", values.get("to"))
    source = None if values.get("from") is None else _language("from", values["from"])
    if source == target:
        raise RequestError("to", values["to"], "that is the language of the video")
    if "glossary" in files:
        _check_glossary(files)
    picture_text = values.get("picture_text")
    if picture_text is not None and picture_text != "tell":
        rule = "it is tell; the text that is found can be replaced when the video is rendered"
        raise RequestError("picture_text", picture_text, rule, "tell")
    if picture_text is not None and (missing := translate_picture.missing()) is not None:
        raise RequestError("picture_text", picture_text, f"nothing on this server reads pictures; {missing}")
    info = video_info(files["video"])
    if not {"subtitles", "transcript"} & files.keys() and not has_sound(files["video"]):
        rule = "it has no sound track, so nothing is said; send the words as a file: transcript or subtitles"
        raise RequestError("video", "the upload", rule)
    if "subtitles" not in files:
        _check_translator(source or "en", target, settings)
    metadata = read_metadata(values.get("metadata"))
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for name, path in files.items():
        with path.open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    request = {
        "prompt": "", "size": [info.width, info.height], "frames": info.frames, "fps": float(info.fps), "steps": 0,
        "to": target, "from": source, "picture_text": picture_text, "metadata": metadata,
    }  # fmt: skip
    return DraftForm(request, files, digest.hexdigest(), info.frames / float(info.fps))


def _check_translator(source: str, target: str, settings: Settings) -> None:
    """Raise RequestError where nothing here translates between two languages."""
    if settings.translator is not None:  # whoever runs the server has chosen it
        return
    try:
        translators.choose(None, source, target)
    except InvalidInput as error:
        raise RequestError("to", target, "", message=without_flags(str(error))) from None


def read_render(fields: Mapping[str, Any], first: Job, settings: Settings) -> RenderForm:
    """Check a request for the video of a draft, which the job `first` made. Raises RequestError."""
    values = {name: value for name, value in fields.items() if value is not None}
    _check_names(values, RENDER_FIELDS)
    result = first.result
    if result is None:
        raise RequestError("id", first.id, f"this translation is {first.state}; wait until it is completed")
    length = first.request["frames"] / first.request["fps"]
    lines = _lines(values["lines"], length) if "lines" in values else _stored(result["lines"])
    original = values.get("original", "duck")
    if original not in ["duck", "remove", "keep"]:  # it may be of any type
        raise RequestError("original", original, "it is duck, remove or keep", "duck")
    consent = read_consent(values.get("consent"))
    voice = _flag("voice", values.get("voice", False))
    if not voice and "original" in values:
        raise RequestError("original", original, "there is no new voice; leave it out, or set voice to true")
    wishes = {name: _flag(name, values.get(name, False)) for name in ("spoken_label", "lips")}
    for name, wanted in wishes.items():
        if wanted and not voice:
            raise RequestError(name, wanted, "there is no new voice; leave it out, or set voice to true")
    if wishes["spoken_label"] and first.request["to"] not in WORDS:
        raise RequestError("spoken_label", True, f"it has no words in {tongues.name_of(first.request['to'])}", False)
    if wishes["lips"] and settings.lips is None:
        raise RequestError("lips", True, "nothing on this server moves lips; whoever runs it can add it", False)
    shared = {name: first.request[name] for name in ("size", "frames", "fps", "steps", "to")}
    written = _texts(values, result.get("written"), settings)
    request = {
        **shared, "from": result["from"], "prompt": " ".join(line.text for line in lines)[:MAX_SHOWN],
        "voice": voice, "original": original, **wishes, "burn": _flag("burn", values.get("burn", False)),
        "both": _flag("both", values.get("both", False)), "consent": consent,
        "metadata": read_metadata(values.get("metadata")), "written": written,
        "picture_model": remaker(settings) if written else None,
        "translation": {
            "lines": [asdict(line) for line in lines], "before": result["before"], "engines": result["engines"],
            "pitches": result["pitches"],
        },
    }  # fmt: skip
    texts = tuple(one["translation"] for one in written or () if one["translation"])
    return RenderForm(request, lines, texts, consent, voice)


def remaker(settings: Settings) -> str | None:
    """The model of a server that makes a part of a picture anew; None where it has none. Groups of GPUs share the steps
    of one video and no edits."""
    if settings.gpus_per_job > 1:
        return None
    return next((name for name in settings.models if "edit" in model(name).tasks), None)


def _texts(
    values: Mapping[str, Any], found: Sequence[Mapping[str, Any]] | None, settings: Settings
) -> list[dict[str, Any]] | None:
    """The text in the picture with the translations that take its place; those without one stay. None where nothing is
    replaced."""
    wish, texts = values.get("picture_text"), values.get("texts")
    if wish is None:
        if texts is not None:
            raise RequestError("texts", texts, "nothing is replaced; leave them out, or set picture_text to replace")
        return None
    if wish != "replace":
        raise RequestError("picture_text", wish, "it is replace", "replace")
    if remaker(settings) is None:
        rule = "this server makes no pictures anew; whoever runs it can add a VACE model"
        raise RequestError("picture_text", wish, rule)
    if not found:
        rule = "this translation knows of no text in the picture; ask for it with the video: picture_text is tell"
        raise RequestError("picture_text", wish, rule)
    given = [one["translation"] for one in found] if texts is None else texts
    if not isinstance(given, list) or len(given) != len(found):
        raise RequestError("texts", texts, f"it is a list of {len(found)} texts, one for each text in the picture")
    plain = [_text(one) for one in given]
    if not any(plain):
        raise RequestError("texts", texts, "no text has a translation; write one, or leave picture_text out")
    return [{**one, "translation": text} for one, text in zip(found, plain, strict=True)]


def _text(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_TEXT):
        raise RequestError(
            "texts", value, f"a text has at most {MAX_TEXT} characters; null or empty leaves it as it is"
        )
    return _plain(value or "") or None


def draft_of(request: Mapping[str, Any]) -> Draft:
    """The draft that a stored request for a video holds, with the lines as the client has left them."""
    kept = request["translation"]
    return Draft(
        source=request["from"], target=request["to"], before=_stored(kept["before"]), lines=_stored(kept["lines"]),
        engines=dict(kept["engines"]), pitches=None if kept["pitches"] is None else tuple(kept["pitches"]),
        written=tuple(map(translate_picture.Written.of, request.get("written") or ())) or None,
    )  # fmt: skip


def without_flags(text: str) -> str:
    """A message of the command line with the names that fields have here."""
    return re.sub(r"(?<![\w-])--(?=[a-z])", "", text)


def _stored(lines: Sequence[Mapping[str, Any]]) -> tuple[Line, ...]:
    return tuple(Line(one["start"], one["end"], one["text"], one.get("speaker", 0)) for one in lines)


def _lines(value: Any, length: float) -> tuple[Line, ...]:
    """Lines from what a client sent; those without text are left out."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or len(value) > MAX_LINES:
        raise RequestError("lines", value, f"it is a list of at most {MAX_LINES} objects with start, end and text")
    lines = [_line(one, number, length) for number, one in enumerate(value, 1)]
    kept = sorted((line for line in lines if line.text), key=lambda line: (line.start, line.end))
    if not kept:
        raise RequestError("lines", value, "no line has a text; leave at least one")
    return tuple(kept)


def _line(value: Any, number: int, length: float) -> Line:
    place = f"line {number}"
    if not isinstance(value, dict):
        raise RequestError("lines", place, "each line is an object with start, end and text")
    start, end, text = value.get("start"), value.get("end"), value.get("text")
    if not _number(start) or not _number(end) or not 0 <= start < end or start >= length:
        raise RequestError("lines", place, f"its times are seconds from 0 to {length:.2f}, and end is after start")
    if not isinstance(text, str) or len(text) > MAX_LINE:
        raise RequestError("lines", place, f"its text has at most {MAX_LINE} characters")
    speaker = value.get("speaker", 0)
    if isinstance(speaker, bool) or not isinstance(speaker, int) or not 0 <= speaker < 16:
        raise RequestError("lines", place, "its speaker is a number from 0 to 15")
    return Line(float(start), float(min(end, length)), _plain(text), speaker)


def _plain(text: str) -> str:
    """A text in one line, without letters that cannot be printed."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flag(name: str, value: Any) -> bool:
    known = {True: True, False: False, "true": True, "false": False}
    if not isinstance(value, bool | str) or value not in known:
        raise RequestError(name, value, "it is true or false", "true")
    return known[value]


def _language(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(field, value, "it is a language, such as de, es or zh", "de")
    try:
        return tongues.parse(field, value)
    except InvalidInput as error:
        raise RequestError(field, value, "", message=str(error)) from None


def _check_names(values: Mapping[str, Any], known: Sequence[str]) -> None:
    for name, value in values.items():
        if name not in known:
            raise RequestError(name, value, f"no such field; fields are {', '.join(known)}", closest(name, known))


def _check_glossary(files: Mapping[str, Path]) -> None:
    if "subtitles" in files:
        raise RequestError("glossary", "the file", "subtitles bring the translation; drop one or the other")
    try:
        Glossary.read(files["glossary"])
    except InvalidInput as error:
        said = str(error).replace(str(files["glossary"]), "the file")
        raise RequestError("glossary", "the file", "", message=without_flags(said)) from None


def _written(name: str, contents: Sequence[BinaryIO], folder: Path) -> Path:
    if len(contents) != 1:
        raise RequestError(name, f"{len(contents)} files", "send one file")
    path = folder / f"{name}.mp4"
    with path.open("wb") as file:
        shutil.copyfileobj(contents[0], file)
    if name == "video":
        return path
    if name == "glossary":
        return path.rename(path.with_suffix(".txt"))
    head = path.read_bytes()[:200].decode("utf-8", "replace").lstrip("\ufeff")
    return path.rename(path.with_suffix(next((suffix for mark, suffix in SUFFIXES if head.startswith(mark)), ".srt")))
