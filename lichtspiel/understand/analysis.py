"""Everything that is known of one file: its shots with vectors, and what every extractor found, used or missed.

An analysis is plain data, so that other processes and machines can make it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lichtspiel.errors import LichtspielError, MediaError
from lichtspiel.media.media import media_sha256
from lichtspiel.understand import pictures, sentences
from lichtspiel.understand.footage import Extractor, Finding, Footage
from lichtspiel.understand.measures import Levels, Measures, perceptual_hash
from lichtspiel.understand.ocr import Text
from lichtspiel.understand.origin import Origin
from lichtspiel.understand.pictures import Labels, keyframe
from lichtspiel.understand.safety import Faces, Nudity
from lichtspiel.understand.shots import Detector, Shots
from lichtspiel.understand.speech import Speech

if TYPE_CHECKING:
    from lichtspiel.frames import Frame

__all__ = ["EXTRACTORS", "Analysis", "Settings", "ShotRecord", "analyze", "captions_of", "extractors", "wanted"]

EXTRACTORS: Mapping[str, Callable[[], Extractor]] = {
    "text": Text, "speech": Speech, "labels": Labels, "measures": Measures, "levels": Levels, "nudity": Nudity,
    "faces": Faces, "origin": Origin,
}  # fmt: skip
"""Everything that can look at a video, beside the shots, which are always found."""

_THUMBNAIL = 256  # pixels of the longer side of the picture that is kept of a shot


@dataclass(frozen=True)
class Settings:
    """How files are looked at: which extractors, which detector of shots, and the checkpoint of CLIP, if any."""

    names: tuple[str, ...] = tuple(EXTRACTORS)
    detector: Detector = "transnetv2"
    clip: str | None = None


@dataclass(frozen=True)
class ShotRecord:
    """One shot: its times and frames, a small JPEG of its middle, the picture's hash, and vectors by space."""

    number: int
    start: float
    end: float
    first: int
    last: int
    picture: bytes
    hash: bytes
    vectors: Mapping[str, bytes]
    """Unit vectors of float16."""


@dataclass(frozen=True)
class Analysis:
    """What is known of a file. `used` are the extractors with their versions; `missed` are those that could not look,
    with the reason, and what failed."""

    path: str
    digest: str
    duration: float
    width: int
    height: int
    fps: float
    frames: int
    caption: str
    shots: tuple[ShotRecord, ...] = ()
    findings: tuple[Finding, ...] = ()
    used: Mapping[str, str] = field(default_factory=dict)
    missed: Mapping[str, str] = field(default_factory=dict)


def wanted(settings: Settings) -> dict[str, str]:
    """What an up-to-date analysis has, by name and version: every extractor and space that works here."""
    names = {one.name: one.version for one in extractors(settings) if one.missing() is None}
    names["shots"] = Shots(settings.detector).version
    if Labels().missing() is None:
        names[pictures.SPACE] = "1"
    return names | ({"clip": "1"} if settings.clip is not None else {})


def extractors(settings: Settings) -> list[Extractor]:
    """The extractors of these settings."""
    return [EXTRACTORS[name]() for name in settings.names]


def analyze(
    path: Path, settings: Settings, caption: str = "", progress: Callable[[str, float], None] = lambda stage, done: None
) -> Analysis:
    """Look at one file with every extractor. Raises MediaError when it cannot be read; what an extractor lacks or fails
    at stands in `missed`."""
    digest = media_sha256(path)
    progress("looking for shots", 0.0)
    footage = Footage(path)
    shots = _shots(footage, settings.detector)
    footage.__dict__["shots"] = shots  # the cached property: all extractors see the shots of this detector
    findings = list(shots)
    used, missed = {"shots": Shots(settings.detector).version}, dict[str, str]()
    looking = extractors(settings)
    for number, extractor in enumerate(looking, start=1):
        progress(f"looking for {extractor.name}", number / (len(looking) + 1))
        if (remedy := extractor.missing()) is not None:
            missed[extractor.name] = f"not installed: {remedy}"
            continue
        try:
            findings += extractor.extract(footage)
        except (LichtspielError, OSError, ValueError, RuntimeError) as error:
            missed[extractor.name] = f"failed: {type(error).__name__}: {error}"
            continue
        used[extractor.name] = extractor.version
    info = footage.scan.info
    texts = [_words(shot, findings, caption) for shot in shots]
    records, spaces = _records(footage, shots, texts, settings)
    return Analysis(
        str(path), digest, footage.scan.duration, info.width, info.height, info.fps, info.frames, caption,
        tuple(records), tuple(findings), used | dict.fromkeys(spaces, "1"), missed,
    )  # fmt: skip


def _shots(footage: Footage, detector: Detector) -> list[Finding]:
    chosen = Shots(detector)
    if (remedy := chosen.missing()) is not None:
        raise MediaError(f"shots cannot be found: {remedy}")
    return chosen.extract(footage)


def _records(
    footage: Footage, shots: list[Finding], texts: list[str], settings: Settings
) -> tuple[list[ShotRecord], list[str]]:
    """The records of all shots, and the spaces in which they have vectors."""
    import numpy as np

    frames = [keyframe(footage, shot) for shot in shots]
    spaces: dict[str, list[bytes | None]] = {}
    if Labels().missing() is None:
        spaces[pictures.SPACE] = [row.astype(np.float16).tobytes() for row in pictures.picture_vectors(frames)]
    if settings.clip is not None:
        from lichtspiel.understand.meaning import clip_of

        vectors = clip_of(settings.clip).pictures(frames)
        spaces["clip"] = [row.astype(np.float16).tobytes() for row in vectors]
    if sentences.available() and any(texts):
        spoken = _unique_passages(texts)
        spaces[sentences.SPACE] = [spoken.get(text) for text in texts]
    records = []
    for number, (shot, frame) in enumerate(zip(shots, frames, strict=True)):
        vectors_here = {space: row for space, rows in spaces.items() if (row := rows[number]) is not None}
        values = int(shot.values["first"]), int(shot.values["last"])
        records.append(
            ShotRecord(number, shot.start, shot.end, *values, _jpeg(frame), perceptual_hash(frame), vectors_here)
        )
    return records, list(spaces)


def _unique_passages(texts: list[str]) -> dict[str, bytes]:
    import numpy as np

    unique = sorted(set(filter(None, texts)))
    return {
        text: row.astype(np.float16).tobytes() for text, row in zip(unique, sentences.passages(unique), strict=True)
    }


def _words(shot: Finding, findings: list[Finding], caption: str) -> str:
    """What is said, written, named and told of a shot, as one text."""
    kinds = ("speech", "text", "label", "prompt")
    parts = [one.text for one in findings if one.kind in kinds and one.text and _overlap(one, shot) > 0]
    return ". ".join(dict.fromkeys([*([caption] if caption else []), *parts]))


def _overlap(one: Finding, shot: Finding) -> float:
    if shot.end == shot.start:  # a picture
        return 1.0
    return min(one.end, shot.end) - max(one.start, shot.start)


def _jpeg(frame: Frame) -> bytes:
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def captions_of(folder: Path) -> dict[str, str]:
    """The captions of a folder's files by name: from captions.jsonl or metadata.jsonl, and from .txt files beside them.

    A line names its file as `path`, `file_name` or `video`, and its caption as `caption`, `text`, `prompt` or, by
    language, as `captions`. Raises MediaError for a line that is no JSON.
    """
    found: dict[str, str] = {}
    for name in ("captions.jsonl", "metadata.jsonl"):
        listing = folder / name
        if not listing.is_file():
            continue
        for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise MediaError(f"{listing}: line {number} is no JSON object ({error}); mend or remove it") from error
            file = next((row[key] for key in ("path", "file_name", "video") if isinstance(row.get(key), str)), None)
            captions = row.get("captions")
            texts = [row.get("caption"), row.get("text"), row.get("prompt")]
            texts += [captions.get("en"), *captions.values()] if isinstance(captions, dict) else []
            text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
            if file and text:
                found[Path(file).name] = text.strip()
    beside = {path.stem: path for path in folder.glob("*.txt")}
    for path in folder.iterdir():
        if path.suffix != ".txt" and path.stem in beside:
            found[path.name] = beside[path.stem].read_text(encoding="utf-8", errors="replace").strip()
    return found
