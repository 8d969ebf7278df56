"""Subtitle files: SRT, WebVTT and ASS, as players read them.

SubRip has no specification: what VLC and FFmpeg do is followed. WebVTT is the W3C's (escapes in 4.2.2), ASS is libass'.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import tongues
from lichtspiel.translate.lines import Line
from lichtspiel.translate.subtitles import Cue

__all__ = ["FORMATS", "directed", "read", "write"]

FORMATS = (".srt", ".vtt", ".ass")

_MOST_BYTES = 16 << 20
_RIGHT_TO_LEFT, _POP = "\u202b", "\u202c"
_JOINER = "\u2060"
"""Word joiner: invisible, it keeps players from taking "<b" and "{y" for the beginning of a tag."""

_INVISIBLE = re.compile("[\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069]")


def directed(text: str, language: str) -> str:
    """The text of a cue with its direction on each line. VLC lays every line out from left to right unless told
    otherwise, so that full stops stand on the wrong side; an embedding (not an isolate, which older players do not
    know) also keeps the order of words where some are Latin."""
    if not tongues.right_to_left(language):
        return text
    return "\n".join(f"{_RIGHT_TO_LEFT}{line}{_POP}" for line in text.split("\n"))


def read(path: Path, *, flag: str = "--subtitles") -> list[Line]:
    """The lines of a subtitle file (SRT, WebVTT, ASS and what else pysubs2 reads), without their styles. Raises
    InvalidInput for a file that is none, or holds no line."""
    import pysubs2

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidInput(f"{flag} {path}: has more than {_MOST_BYTES >> 20} MiB; it is no subtitle file")
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{flag} {path}: cannot be read: {error.strerror or error}") from None
    try:
        file = pysubs2.SSAFile.from_string(_decoded(path, content, flag), keep_unknown_html_tags=True)
    except Exception as error:  # a damaged file can make the parser raise anything
        raise InvalidInput(f"{flag} {path}: is no SRT, WebVTT or ASS file ({error})") from None
    lines = list[Line]()
    for event in sorted(file.events, key=lambda event: (event.start, event.end)):
        text = _plain(event.text, str(file.format))
        if text and not event.is_comment and event.end > event.start:
            lines.append(Line(event.start / 1000, event.end / 1000, text))
    if not lines:
        raise InvalidInput(f"{flag} {path}: holds no line with a time; SRT, WebVTT and ASS are read")
    return lines


def _plain(text: str, kind: str) -> str:
    """The words of a cue, without tags and signs that are not seen."""
    text = re.sub(r"\\[Nnh]", " ", text)
    if kind in ("ass", "ssa"):
        text = re.sub(r"\{[^}]*\}", "", text)
    else:
        text = re.sub(r"\{\\[^}]*\}|</?[A-Za-z][^>]{0,60}>|<[\d:.]+>", "", text)
    text = html.unescape(text) if kind == "vtt" else text
    return re.sub(r"\s+", " ", _INVISIBLE.sub("", text)).strip()


def _decoded(path: Path, content: bytes, flag: str) -> str:
    for encoding in ("utf-8-sig", "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InvalidInput(f"{flag} {path}: is not in UTF-8; save it in that encoding, so that no letter is guessed")


def write(given: Sequence[Cue], kind: str, language: str) -> str:
    """The text of a subtitle file; `kind` is one of FORMATS. Letters that a format uses for itself are written so that
    players show them; braces, for which ASS has no way, become full-width ones there."""
    if kind == ".ass":
        return _ass(given, language)
    point = "," if kind == ".srt" else "."
    blocks = ["WEBVTT"] if kind == ".vtt" else []
    for number, cue in enumerate(given, 1):
        text = re.sub(r"\n\s*\n", "\n", cue.text.strip())
        text = re.sub(r"(\{|\\(?=[Nnh])|<(?=\s*/?\s*[A-Za-z]))", rf"\1{_JOINER}", text)
        text = html.escape(text, quote=False) if kind == ".vtt" else text
        span = f"{_clock(cue.start, point)} --> {_clock(cue.end, point)}"
        blocks.append(f"{number}\n{span}\n{directed(text, language)}")
    return "\n\n".join(blocks) + "\n"


def _clock(seconds: float, point: str) -> str:
    whole = round(seconds * 1000)
    minutes, milliseconds = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def _ass(given: Sequence[Cue], language: str) -> str:
    import pysubs2

    file = pysubs2.SSAFile()
    for cue in given:
        text = cue.text.replace("{", "\uff5b").replace("}", "\uff5d").replace("\\", f"\\{_JOINER}")
        shown = directed(text, language).replace("\n", "\\N")
        file.append(pysubs2.SSAEvent(start=round(cue.start * 1000), end=round(cue.end * 1000), text=shown))
    style = file.styles["Default"]
    style.fontsize, style.outline, style.marginv = 16, 1, 12
    file.info["PlayResX"], file.info["PlayResY"], file.info["Language"] = "384", "288", language
    return file.to_string("ass")
