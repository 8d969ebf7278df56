"""Sound and subtitle tracks that the door puts beside a picture.

This module knows how samples become AAC and how cues become the timed text of MP4 (3GPP TS 26.245, `tx3g`). It writes
no file: `export` takes the packets. Times are seconds from the start of the picture.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from lichtspiel.seal.sound import Sound

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt

__all__ = ["TEXT_BASE", "Cue", "SoundTrack", "Subtitles", "Tracks", "interleaved", "prepare_text", "sound_packets",
           "text_packets"]  # fmt: skip

TEXT_BASE = Fraction(1, 1000)
"""The time base of subtitle tracks."""

_CHUNK = 1024  # samples in one AAC frame
# Advanced SubStation Alpha, from which FFmpeg makes the description of the samples: white, at the bottom in the middle.
_HEADER = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, BackColour, Bold, Italic, Underline, Alignment
Style: Default,Arial,16,&Hffffff,&H0,0,0,0,2
"""


@dataclass(frozen=True, kw_only=True)
class SoundTrack:
    """A new sound track: float32 samples from -1 to 1 [samples, channels], their rate, the ISO 639-2 code of its
    language and its title. One or two channels; the first sample is heard with the first frame."""

    samples: npt.NDArray[np.float32]
    rate: int
    language: str = "und"
    title: str = ""


@dataclass(frozen=True)
class Cue:
    """One subtitle: when it appears and disappears, in seconds, and its lines."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Subtitles:
    """A track of cues in order that do not overlap, the ISO 639-2 code of its language, and its title."""

    cues: tuple[Cue, ...]
    language: str = "und"
    title: str = ""

    def __post_init__(self) -> None:
        for cue, after in zip(self.cues, (*self.cues[1:], None), strict=True):
            assert 0 <= cue.start < cue.end, cue
            assert after is None or cue.end <= after.start + 1e-6, (cue, after)


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """What stands beside the picture: sound that is copied from a file, or new sound in its place, and subtitles that
    viewers can turn on."""

    copied: Sound | None = None
    sounds: tuple[SoundTrack, ...] = ()
    subtitles: tuple[Subtitles, ...] = ()


def sound_packets(stream: av.AudioStream, sound: SoundTrack) -> Iterator[av.Packet[Any]]:
    """Encode a sound for a stream that `export` has opened."""
    import av
    import numpy as np

    layout = "stereo" if sound.samples.shape[1] == 2 else "mono"
    for start in range(0, len(sound.samples), _CHUNK):
        piece = np.ascontiguousarray(sound.samples[start : start + _CHUNK].T, np.float32)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sound.rate, start, Fraction(1, sound.rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def prepare_text(stream: Any) -> None:
    """Set up a stream of timed text: its time base, and the style of its letters, which players may replace."""
    stream.time_base = TEXT_BASE
    stream.codec_context.subtitle_header = _HEADER


def text_packets(stream: Any, subtitles: Subtitles) -> Iterator[av.Packet[Any]]:
    """The cues of a track as samples: the number of bytes and the text in UTF-8. The muxer puts an empty sample behind
    each, for which a cue that ends where the next begins gives a millisecond, so that none has no length."""
    import av

    for cue, after in zip(subtitles.cues, (*subtitles.cues[1:], None), strict=True):
        text = cue.text.encode()
        packet: Any = av.Packet(struct.pack(">H", len(text)) + text)
        packet.stream, packet.time_base = stream, TEXT_BASE
        packet.pts = packet.dts = round(cue.start / TEXT_BASE)
        end = round(cue.end / TEXT_BASE)
        if after is not None:
            end = min(end, round(after.start / TEXT_BASE) - 1)
        packet.duration = max(end - packet.pts, 1)
        yield packet


def interleaved(streams: Iterable[Iterable[av.Packet[Any]]]) -> Iterator[av.Packet[Any]]:
    """The packets of several streams in the order in which a player needs them."""
    return heapq.merge(*streams, key=lambda packet: float((packet.dts or 0) * (packet.time_base or 0)))
