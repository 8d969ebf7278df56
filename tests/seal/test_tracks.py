"""The door copies a picture as it is and puts sound and subtitles beside it."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lichtspiel.errors import MediaError, RequestError
from lichtspiel.seal import Marks, Sealed, Sound, seal, verify
from lichtspiel.seal.credentials import Input
from lichtspiel.seal.export import copies, seal_copy
from lichtspiel.seal.tracks import Cue, SoundTrack, Subtitles, Tracks
from tests.seal.conftest import frames, provenance

RATE = 48_000


def tone(seconds: float, channels: int = 1) -> SoundTrack:
    times = np.arange(round(seconds * RATE)) / RATE
    wave = (0.2 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    return SoundTrack(samples=np.repeat(wave[:, None], channels, 1), rate=RATE, language="spa", title="Español")


CUES = (Cue(0.5, 1.25, "Hola,\n¿qué tal?"), Cue(1.5, 1.9, "你好"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of picture with sound."""
    path = tmp_path_factory.mktemp("tracks") / "talk.mp4"
    made = seal(frames(32), provenance(), path, fps=16, sound=Tracks(sounds=(tone(2),)), marks=Marks.none("a test"))
    return made.path


def pictures(path: Path) -> list[tuple[str, float]]:
    """The digest and time of each coded picture."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        return [(hashlib.sha256(bytes(one)).hexdigest(), float(one.pts * one.time_base)) for one in packets]  # type: ignore[operator]


def copied(video: Path, out: Path, tracks: Tracks, **changes: Any) -> Sealed:
    made = provenance(inputs=(Input.of(video, "original", parent=True),), source_type="compositeSynthetic")
    return seal_copy(video, made, out, tracks=tracks, **changes)


@pytest.fixture(scope="module")
def dubbed(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    tracks = Tracks(sounds=(tone(2, 2),), subtitles=(Subtitles(cues=CUES, language="spa", title="Español"),))
    return copied(video, tmp_path_factory.mktemp("out") / "talk.es.mp4", tracks)


def test_the_picture_is_the_same_bit_by_bit(video: Path, dubbed: Sealed) -> None:
    assert pictures(dubbed.path) == pictures(video)
    assert (dubbed.frames, dubbed.fps, dubbed.width, dubbed.height) == (32, 16, 64, 48)


def test_the_tracks_are_there_in_their_language(dubbed: Sealed) -> None:
    with av.open(str(dubbed.path)) as container:
        kinds = [(one.type, one.codec_context.name, one.metadata["language"]) for one in container.streams]  # type: ignore[union-attr]
        assert kinds[1:] == [("audio", "aac", "spa"), ("subtitle", "mov_text", "spa")]
        length = container.streams.video[0].duration * container.streams.video[0].time_base  # type: ignore[operator]
        assert length == 2
        sound = sum(frame.samples for frame in container.decode(audio=0))
        assert sound == pytest.approx(2 * RATE, abs=1024)
    with av.open(str(dubbed.path)) as container:
        packets = [one for one in container.demux(subtitles=0) if one.size > 2]
        shown = [(float(one.pts * one.time_base), float(one.duration * one.time_base), bytes(one)[2:].decode())  # type: ignore[operator]
                 for one in packets]  # fmt: skip
    assert shown == [(0.5, 0.75, "Hola,\n¿qué tal?"), (1.5, 0.4, "你好")]


def test_it_is_signed_as_edited_and_bears_no_watermark(dubbed: Sealed) -> None:
    assert (dubbed.watermark, dubbed.label) == (None, False)
    report = verify(dubbed.path)
    assert report.credentials.state == "trusted"
    assert report.credentials.source_type == "compositeSynthetic"
    assert [entry.relationship for entry in report.credentials.ingredients] == ["parentOf"]


def test_the_sound_of_the_original_is_copied(video: Path, tmp_path: Path) -> None:
    made = copied(video, tmp_path / "subtitled.mp4", Tracks(copied=Sound(video), subtitles=(Subtitles(cues=CUES),)))

    def heard(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    assert heard(made.path) == heard(video)


def test_a_file_that_starts_late_starts_at_zero(video: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.ts"
    with av.open(str(video)) as source, av.open(str(late), "w", format="mpegts") as target:
        streams = {one.index: target.add_stream_from_template(one) for one in source.streams}  # type: ignore[type-var]
        for packet in source.demux():
            if packet.dts is not None:
                ahead = round(Fraction(7) / packet.time_base)
                packet.pts, packet.dts = packet.pts + ahead, packet.dts + ahead  # type: ignore[operator]
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    made = copied(late, tmp_path / "early.mp4", Tracks(copied=Sound(late)))
    with av.open(str(made.path)) as container:
        assert abs((container.start_time or 0) / 1e6) < 0.05
        assert container.duration == pytest.approx(2e6, abs=1e5)
    assert made.frames == 32


def test_what_cannot_be_copied_is_refused(video: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="label"):
        copied(video, tmp_path / "a.mp4", Tracks(), marks=Marks.of(label=True))
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as target:
        stream = target.add_stream("aac", rate=RATE, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = RATE
        target.mux(stream.encode(silence))
        target.mux(stream.encode(None))
    assert not copies(sound)
    with pytest.raises(MediaError, match="holds no video"):
        copied(sound, tmp_path / "a.mp4", Tracks())
    moving = tmp_path / "moving.avi"
    with av.open(str(moving), "w") as target:
        picture: Any = target.add_stream("mjpeg", rate=8)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        target.mux(picture.encode(av.VideoFrame.from_ndarray(next(frames(1)), "rgb24")))
        target.mux(picture.encode(None))
    assert copies(video)
    assert not copies(moving)
    with pytest.raises(MediaError, match=r"mjpeg.*H\.264"):
        copied(moving, tmp_path / "a.mp4", Tracks())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["moving.avi", "sound.mp4"]
