"""The unsigned, machine-readable metadata of a file: the comment, the AIGC label and the source type in XMP.

This module knows the AIGC label of GB 45438-2025 and the comment, and `xmp` the third. It provides them for MP4 files
and reads them from any file. It does not decide which of them a video needs (`marks`) and does not draw the visible
label (`visible`). The tags prove nothing: anybody can write or remove them. Proof is in the credentials.

How MP4 stores them, found with FFmpeg 8 (PyAV 18), ExifTool 12.57, MediaInfo 24.12, mutagen 1.48 and VLC's source:

    comment alone      the ©cmt item, which all of these programs read
    with AIGC          FFmpeg writes custom keys only with use_metadata_tags, and then stores every entry by key.
                       FFmpeg, ExifTool and MediaInfo read a comment stored this way. VLC needs it under Apple's prefix,
                       so we write it twice. Programs that only know ©cmt, such as mutagen, show neither copy

When FFmpeg copies a file without use_metadata_tags, it turns the comment into ©cmt and drops the rest; with the option
it keeps everything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lichtspiel.errors import MediaError
from lichtspiel.media.picture import allow_long_texts
from lichtspiel.media.probe import survey
from lichtspiel.media.video import OPTIONS
from lichtspiel.seal import xmp
from lichtspiel.seal.marks import TEXTS, Marks

__all__ = ["Tags", "aigc", "comment", "muxer", "read", "tags"]

_KEYS = (
    "Label",
    "ContentProducer",
    "ProduceID",
    "ReservedCode1",
    "ContentPropagator",
    "PropagateID",
    "ReservedCode2",
)
_LABELED = "AIGC="  # what the label follows in a line with both
_GENERATED = "1"  # 2 is "possibly", 3 is "suspected": platforms use those for files that others made

_APPLE = "com.apple.quicktime.comment"

PNG_NAMES = {"comment": "Comment", "AIGC": "AIGC"}
"""The PNG text entries that hold the same information; Comment is one of the format's predefined keywords."""

_DESCRIPTION = 0x010E  # of Exif: ImageDescription
_MOST_ENTRY = 8192  # characters in an AIGC label; the ones we have seen from other tools are shorter than 1000
_MOST_VALUE = 1024  # characters in one of its values
_MOST_COMMENT = 500
_MOST_NAME = 100
_MOST_HEADERS = 64 << 20  # bytes of an MP4 besides its media data; FFmpeg needs up to three times as much memory
_SECONDS = 5.0  # FFmpeg's time is quadratic in the number of entries: 12 MB of them take almost an hour


def aigc(id: str, producer: str) -> str:
    """The AIGC label: JSON with the seven keys of GB 45438-2025, Annex E.

    The annex shows it as {"AIGC": ...}, which is the key together with its value. Where the file format has a key of
    its own for the label, as MP4 does, the value is the inner object alone. TC260's guides do this for XMP, and tools
    that follow them (aopstudio/aigc-hidden-metadata) do it for MP4. `read` accepts both forms.

    ReservedCode1 ties the producer to the id. Anybody can compute it, so it only reveals careless changes. The
    credentials, which sign the whole file, are what protects the label.
    """
    entry = dict.fromkeys(_KEYS, "")
    entry |= {"Label": _GENERATED, "ContentProducer": producer, "ProduceID": id, "ReservedCode1": _code(id, producer)}
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))


def comment(id: str, model: str, version: str, created: datetime, parts: str = "") -> str:
    """One line of ASCII for people who look at a file's properties. `parts` names what was generated, where that is not
    the whole video.

    It contains what SB 942 requires of a latent disclosure (provider, system and version, time, id), because it often
    survives in copies that have lost the credentials.
    """
    when = created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    model, version, id = (_ascii(text) for text in (model, version, id))
    what = f"AI-generated {_ascii(parts)}" if parts else "AI-generated"
    return f"{what} by {model}, marked by Lichtspiel {version} at {when}, id {id}; check: lichtspiel verify FILE"


def tags(marks: Marks, *, id: str, model: str, version: str, created: datetime, parts: str = "") -> dict[str, str]:
    """The metadata of a file with these marks, for PyAV's `container.metadata`. Mux with the options from `muxer`."""
    entries = {}
    if marks.comment:
        entries["comment"] = comment(id, model, version, created, parts)
    if marks.comment and marks.aigc:
        entries[_APPLE] = entries["comment"]
    if marks.aigc:
        entries["AIGC"] = aigc(id, marks.producer)
    return entries


def line(tags: Mapping[str, str]) -> str:
    """The same in one line of ASCII, for formats that have room for one text: the comment, then the AIGC label."""
    label = tags.get("AIGC")
    parts = [tags.get("comment", "")] + ([] if label is None else [f"{_LABELED}{json.dumps(json.loads(label))}"])
    return " ".join(filter(None, parts))


def muxer(marks: Marks) -> dict[str, str]:
    """Options that make FFmpeg's MP4 muxer keep `tags`; bitexact, so that it adds no version or time of its own."""
    return {"movflags": "+faststart" + "+use_metadata_tags" * marks.aigc, "fflags": "+bitexact"}


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The unsigned metadata of a file.

    `aigc` contains, as text, whichever of the seven keys the file has; Label is always among them. `comment` is None
    unless it says that the video is generated. `source_type` is the IPTC digital source type in XMP. All are untrusted
    text: they are truncated and stripped of control characters.
    """

    aigc: dict[str, str] | None
    comment: str | None
    source_type: str | None = None

    @property
    def whole(self) -> bool:
        """Whether ReservedCode1 matches the producer and the id, as `aigc` computes it. Labels written by other tools
        compute it differently, so this is False for them too."""
        entry = self.aigc or {}
        code = entry.get("ReservedCode1")
        return code is not None and code == _code(entry.get("ProduceID", ""), entry.get("ContentProducer", ""))


def read(path: Path) -> Tags:
    """Read the tags of any video, PNG, GIF or WebP, in bounded time and memory.

    Raises MediaError when the file is missing, damaged or of another format.
    """
    import av

    layout = survey(path)
    if layout.png:
        entries = _png(path)
        said = xmp.parse(entries.get("xmp", "").encode(errors="replace"))
        return Tags(aigc=_parse(entries.get("aigc", "")), comment=_claim(entries.get("comment", "")), source_type=said)
    if layout.mime in {"image/gif", "image/webp"}:
        text, packet = _animation(path)
        text, _, label = text.partition(_LABELED)
        return Tags(aigc=_parse(label), comment=_claim(text.strip()), source_type=xmp.parse(packet))
    if layout.mp4 and (headers := _header_bytes(path)) > _MOST_HEADERS:
        raise MediaError(f"{path}: has {headers:,} bytes of headers; at most {_MOST_HEADERS:,} are read")
    options = {**OPTIONS, "format_whitelist": f"{OPTIONS['format_whitelist']},flv,ogg,asf"}
    try:
        with av.open(
            f"file:{path.absolute()}", options=options, metadata_errors="replace", timeout=_SECONDS
        ) as container:
            entries = {key.lower(): value for key, value in container.metadata.items()}
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{path}: is no video that can be read, or is damaged ({error})") from error
    text = entries.get("comment") or entries.get(_APPLE) or ""
    said = xmp.parse(xmp.read_box(path)) if layout.mp4 else None
    return Tags(aigc=_parse(entries.get("aigc", "")), comment=_claim(text), source_type=said)


def _png(path: Path) -> dict[str, str]:
    """The text entries of a PNG that precede its pixel data."""
    from PIL import Image

    allow_long_texts()
    names = {**PNG_NAMES, "xmp": xmp.KEYWORD}
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return {key.lower(): str(image.info[name]) for key, name in names.items() if name in image.info}
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise MediaError(f"{path}: is damaged ({error}); copy or export it again") from error


def _animation(path: Path) -> tuple[str, bytes]:
    """The text of a GIF or WebP, and its XMP packet."""
    from PIL import Image

    try:
        with Image.open(path, formats=("GIF", "WEBP")) as image:
            text = image.info.get("comment") or image.getexif().get(_DESCRIPTION, "")
            packet = image.info.get("xmp", b"")
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise MediaError(f"{path}: is damaged ({error}); copy or export it again") from error
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return plain[: 2 * _MOST_ENTRY], packet if isinstance(packet, bytes) else b""


def _code(id: str, producer: str) -> str:
    return hashlib.sha256(f"AIGC:{producer}:{id}".encode(errors="replace")).hexdigest()


def _ascii(text: str) -> str:
    return " ".join(text.encode("ascii", "replace").decode().split())[:_MOST_NAME]


def _plain(text: str, most: int) -> str:
    return "".join(character for character in text[:most] if character.isprintable())


def _claim(text: str) -> str | None:
    plain = _plain(text, _MOST_COMMENT)
    claims = (*TEXTS.values(), "AI generated", "人工智能")
    return plain if any(claim.lower() in plain.lower() for claim in claims) else None


def _parse(text: str) -> dict[str, str] | None:
    if not text or len(text) > _MOST_ENTRY:
        return None
    try:
        entry: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(entry, dict) and isinstance(entry.get("AIGC"), dict):
        entry = entry["AIGC"]
    if not isinstance(entry, dict):
        return None
    entries = {key: entry[key] for key in _KEYS if isinstance(entry.get(key), str | int)}
    values = {key: _plain(str(value), _MOST_VALUE) for key, value in entries.items()}
    return values if values.get("Label") else None


def _header_bytes(path: Path) -> int:
    """The size in bytes of an MP4's top-level boxes other than media data; `survey` has checked that the boxes fit."""
    total = at = 0
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, name = int.from_bytes(head[:4], "big"), head[4:]
            if size == 1:
                size = int.from_bytes(file.read(8), "big")
            if size == 0 and name == b"mdat":
                break
            size = size or path.stat().st_size - at
            total += 0 if name in (b"mdat", b"free", b"skip") else size
            at += size
            file.seek(at)
    return total
