"""Subtitles as players read them: files of three formats in FFmpeg, tracks of MP4 by what VLC's demuxer asks for."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")

from lichtspiel.errors import InvalidInput
from lichtspiel.seal import Marks, seal
from lichtspiel.seal.tracks import Cue as TextCue
from lichtspiel.seal.tracks import Subtitles, Tracks
from lichtspiel.translate import subtitle_files
from lichtspiel.translate.subtitle_files import directed, read, write
from lichtspiel.translate.subtitles import Cue
from tests.seal.conftest import frames, home, provenance

__all__ = ["home"]

TEXTS = ["Hola,\n¿qué tal?", "Tom & Jerry <b>, a < b > c", "{y:i} {\\an8} [music]", "C:\\New\\home", "1 --> 2",
         "&amp; is how & is written", "♪ la, la", "他说：“你好。”"]  # fmt: skip
CUES = [Cue(1 + 2 * at, 2.5 + 2 * at + at / 1000, text) for at, text in enumerate(TEXTS)]
CUES.append(Cue(3600.25, 3601.999, "An hour"))
RLE, PDF = "\u202b", "\u202c"


@pytest.mark.parametrize("kind", subtitle_files.FORMATS)
def test_a_file_says_what_was_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"talk{kind}"
    path.write_text(write(CUES, kind, "es"), encoding="utf-8")
    for line, cue in zip(read(path), CUES, strict=True):
        assert (line.start, line.end) == (pytest.approx(cue.start, abs=0.006), pytest.approx(cue.end, abs=0.006))
        wanted = cue.text.replace("\n", " ")
        assert line.text == (wanted.replace("{", "｛").replace("}", "｝") if kind == ".ass" else wanted)


@pytest.mark.parametrize("kind", subtitle_files.FORMATS)
@pytest.mark.parametrize("language", ["es", "ar"])
def test_ffmpeg_reads_as_many_cues_at_the_same_times(kind: str, language: str, tmp_path: Path) -> None:
    path = tmp_path / f"talk{kind}"
    path.write_text(write(CUES, kind, language), encoding="utf-8")
    exact = 0.006 if kind == ".ass" else 0.0005  # ASS counts hundredths
    shown: list[str] = []
    with av.open(str(path)) as container:
        name = container.streams[0].codec_context.name
        assert name in {".srt": ["srt", "subrip"], ".vtt": ["webvtt"], ".ass": ["ass", "ssa"]}[kind]
        packets: list[Any] = [packet for packet in container.demux() if packet.size]
        shown += [event.ass.decode() for packet in packets for event in packet.decode()]
    assert len(packets) == len(shown) == len(CUES)
    for packet, cue in zip(packets, CUES, strict=True):
        assert float(packet.pts * packet.time_base) == pytest.approx(cue.start, abs=exact)
        assert float(packet.duration * packet.time_base) == pytest.approx(cue.end - cue.start, abs=2 * exact)
    for text, cue in zip(shown, CUES, strict=True):
        plain = subtitle_files._INVISIBLE.sub("", text.split(",", 8)[8]).replace("｛", "{").replace("｝", "}")
        assert plain.replace("{{}", "{").replace("\\{", "{") == cue.text.replace("\n", "\\N"), (
            "no tag is seen in it, and nothing is lost"
        )


def test_tags_of_other_hands_are_left_out(tmp_path: Path) -> None:
    for name, text in (
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\n{\\an8}<i>Adiós</i>, a < b\n"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Ana>Adiós</v>, <00:01.500>a &lt; b\n"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read(tmp_path / name)[0].text == "Adiós, a < b"


def test_right_to_left_lines_say_their_direction() -> None:
    assert directed("hola", "es") == "hola"
    text = write([Cue(0, 1, "مرحبا!\nكيف؟")], ".srt", "ar")
    assert f"{RLE}مرحبا!{PDF}\n{RLE}كيف؟{PDF}" in text


def test_what_was_written_from_right_to_left_is_read_without_the_signs(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(write([Cue(0, 1, "مرحبا & Bob!")], ".vtt", "ar"), encoding="utf-8")
    assert read(tmp_path / "a.vtt")[0].text == "مرحبا & Bob!"


ARABIC = (TextCue(0, 1.5, directed("مرحبا!", "ar")), TextCue(1.5, 2.004, directed("كيف؟\nBob: نعم.", "ar")))
ENGLISH = (TextCue(0.5, 1.25, "Hello & <b> {x}!"), TextCue(1.333, 1.999, "How?"))


@pytest.fixture(scope="module")
def film(installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds with subtitles in two languages."""
    both = (Subtitles(cues=ARABIC, language="ara", title="Arabic"),
            Subtitles(cues=ENGLISH, language="eng", title="English"))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICHTSPIEL_HOME", str(installation))
        path = tmp_path_factory.mktemp("film") / "film.mp4"
        return seal(
            frames(24), provenance(), path, fps=8, sound=Tracks(subtitles=both), marks=Marks.none("a test")
        ).path


def test_a_track_holds_its_cues_and_says_its_language(film: Path) -> None:
    for track, cues, language in ((0, ARABIC, "ara"), (1, ENGLISH, "eng")):
        with av.open(str(film)) as container:
            stream: Any = container.streams.subtitles[track]
            assert (stream.codec_context.name, stream.time_base.denominator) == ("mov_text", 1000)
            assert stream.metadata["language"] == language
            packets: list[Any] = [packet for packet in container.demux(stream) if packet.size]
        assert packets[0].pts == 0
        for packet, after in itertools.pairwise(packets):
            assert packet.duration > 0
            assert packet.pts + packet.duration == after.pts, "samples follow each other without a gap"
        spoken = [packet for packet in packets if packet.size > 2]  # the others are empty: nothing is shown
        ends = [round(cue.end * 1000) for cue in cues]
        ends[0] -= cues[0].end == cues[1].start  # a millisecond for the sample that ends it
        for packet, cue, end in zip(spoken, cues, ends, strict=True):
            assert packet.pts == round(cue.start * 1000)
            assert packet.pts + packet.duration == end
            assert struct.unpack(">H", bytes(packet)[:2])[0] == len(bytes(packet)) - 2
            assert bytes(packet)[2:].decode() == cue.text


def test_one_track_of_subtitles_is_the_default(film: Path) -> None:
    with av.open(str(film)) as container:
        default = [bool(stream.disposition & av.stream.Disposition.default) for stream in container.streams.subtitles]
        assert default == [True, False]


def boxes(data: bytes, path: str) -> Iterator[bytes]:
    """The contents of all boxes at a path such as moov/trak/tkhd."""
    kind, _, rest = path.partition("/")
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", data[at + 8 : at + 16])[0], 16
        size = size or len(data) - at
        if name == kind.encode("latin-1"):
            inner = data[at + head : at + size]
            yield from boxes(inner, rest) if rest else [inner]
        at += size


def test_vlc_finds_what_it_asks_for(film: Path) -> None:
    """As `modules/demux/mp4` of VLC reads a track: enabled or not, not forced, UTF-8 by the language, and its name."""
    tracks = list(boxes(film.read_bytes(), "moov/trak"))[1:]
    assert len(tracks) == 2
    for number, (track, name) in enumerate(zip(tracks, ("Arabic", "English"), strict=True)):
        (header,) = boxes(track, "tkhd")
        assert header[3] & 1 == (number == 0), "MP4_TRACK_ENABLED: only the first is on by itself"
        (handler,) = boxes(track, "mdia/hdlr")
        assert handler[8:12] == b"sbtl"
        (media,) = boxes(track, "mdia/mdhd")
        timescale, _, language = struct.unpack(">IIH", media[12:22])
        assert timescale == 1000
        assert language >= 0x400, "a smaller one is a Macintosh code, and the text is taken for Mac Roman"
        (description,) = boxes(track, "mdia/minf/stbl/stsd")
        assert description[12:16] == b"tx3g"
        assert not struct.unpack(">I", description[24:28])[0] & 0xC0000000, "no sample is forced"
        (title,) = boxes(track, "udta/name")
        assert title.decode() == name


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "talk.srt"
    with pytest.raises(InvalidInput, match=r"--subtitles .*talk\.srt: cannot be read: No such file"):
        read(path)
    path.write_text("nothing with a time")
    with pytest.raises(InvalidInput, match=r"is no SRT, WebVTT or ASS file|holds no line"):
        read(path)
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\nAdiós\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="not in UTF-8"):
        read(path)
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\n<i>Adiós</i>\n".encode("utf-16"))
    assert read(path)[0].text == "Adiós"
