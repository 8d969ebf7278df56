"""The sound of a media file, copied without decoding it into the video that `export` writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import MediaError
from lichtspiel.media.video import OPTIONS

if TYPE_CHECKING:
    import av

__all__ = ["Sound"]

_KNOWN = frozenset(["aac", "mp3", "opus", "ac3", "eac3", "alac", "flac"])  # what MP4 holds and players know


@dataclass(frozen=True)
class Sound:
    """The first sound track of a media file, or `seconds` of it, from `start` seconds after the start of the file."""

    path: Path
    start: float = 0.0
    seconds: float | None = None

    def check(self) -> None:
        """Raise MediaError for a file without sound, or with one that MP4 cannot hold."""
        with self.opened() as track:
            if track is None:
                raise MediaError(f"{self.path}: has no sound that could be kept")

    def left_out(self) -> list[str]:
        """What else the file holds, in words, and is not copied: other sound tracks, subtitles and chapters."""
        import av

        with self.opened() as track, av.open(f"file:{self.path.absolute()}", options=OPTIONS) as source:
            counts = {
                "further sound track": len(source.streams.audio) - (track is not None),
                "subtitle track": len(source.streams.subtitles),
                "further video track": len(source.streams.video) - 1,
                "chapter": len(source.chapters()) if hasattr(source, "chapters") else 0,  # not in PyAV 15
            }
        return [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count > 0]

    @contextlib.contextmanager
    def opened(self) -> Iterator[av.AudioStream | None]:
        """The sound track, or None if there is none. Raises MediaError for one that MP4 cannot hold."""
        import av

        try:
            source = av.open(f"file:{self.path.absolute()}", options=OPTIONS)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise MediaError(f"{self.path}: is no video that can be read, or is damaged; export it as MP4") from error
        with source:
            track = next(iter(source.streams.audio), None)
            if track is not None and (codec := track.codec_context.codec.canonical_name) not in _KNOWN:
                raise MediaError(f"{self.path}: its sound ({codec}) does not fit into MP4; convert it to AAC first")
            yield track

    def packets(self, track: av.AudioStream) -> Iterator[av.Packet[Any]]:
        """The packets of the track, with time stamps from the start of the sound."""
        source: Any = track.container  # an input container, which the type stubs do not say
        unit = track.time_base or 1
        begin = round(((source.start_time or 0) / 1e6 + self.start) / unit)
        end = None if self.seconds is None else begin + round(self.seconds / unit)
        for packet in source.demux(track):
            if packet.dts is None or packet.pts is None:  # the last one is empty
                continue
            if self.start and packet.pts < begin:
                continue
            if end is not None and packet.pts >= end:
                return
            packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
            yield packet
