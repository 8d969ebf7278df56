"""Read the sound of a video, within limits, as samples at a rate of choice.

Errors name the file and the remedy. Samples are float32 from -1 to 1, [samples, channels]; the first one belongs to the
start of the file, so that times in the sound are times in the picture.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import MediaError
from lichtspiel.media.probe import survey
from lichtspiel.media.video import OPTIONS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["MAX_SECONDS", "has_sound", "read_sound", "sound_length"]

MAX_SECONDS = 3600
"""The longest sound that is read: an hour of stereo takes 1.4 GB."""

_OPENING = 5.0
_FORMATS = f"{OPTIONS['format_whitelist']},wav,mp3,flac,ogg,aac"


def has_sound(path: str | Path) -> bool:
    """Whether a file has a sound track. Raises MediaError for one that cannot be read."""
    with _opened(Path(path)) as container:
        return bool(container.streams.audio)


def sound_length(path: str | Path) -> float:
    """How long a file lasts, picture or sound, in seconds; 0 if it does not say."""
    with _opened(Path(path)) as container:
        return (container.duration or 0) / 1e6


def read_sound(path: str | Path, *, rate: int, channels: int = 1) -> npt.NDArray[np.float32]:
    """The first sound track of a file, mixed to one or two channels.

    Where the track begins late, silence stands before it; where it has gaps, silence stands in them. Raises MediaError
    when there is no sound, when it is damaged, or longer than MAX_SECONDS.
    """
    import av
    import numpy as np

    path = Path(path)
    pieces, written = list[Any](), 0
    with _opened(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{path}: has no sound track")
        track = container.streams.audio[0]
        if track.codec_context is None:
            raise MediaError(f"{path}: its sound is coded in a way that this FFmpeg does not know; convert it to AAC")
        start = Fraction(container.start_time or 0, 1_000_000)
        layout = "mono" if track.codec_context.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        try:
            for frame in container.decode(track):
                if frame.pts is not None and frame.time_base is not None:
                    due = round((frame.pts * frame.time_base - start) * rate)
                    if due - written > rate // 20:  # 50 ms: jitter of time stamps is no gap
                        gap = round(min(due, MAX_SECONDS * rate)) - written
                        pieces.append(np.zeros((gap, 1 if layout == "mono" else 2), np.float32))
                        written += gap
                frame.pts = None
                for out in resampler.resample(frame):
                    pieces.append(np.ascontiguousarray(out.to_ndarray().T))
                    written += out.samples
                if written >= MAX_SECONDS * rate:
                    raise MediaError(f"{path}: has more than {MAX_SECONDS / 60:.0f} minutes of sound; cut it first")
            for out in resampler.resample(None):
                pieces.append(np.ascontiguousarray(out.to_ndarray().T))
        except av.FFmpegError as error:
            raise MediaError(f"{path}: its sound is damaged ({error.strerror}); copy or export it again") from error
    if not pieces:
        raise MediaError(f"{path}: has a sound track without any sound in it")
    sound: npt.NDArray[np.float32] = np.concatenate(pieces).astype(np.float32, copy=False)
    if channels == 1:  # the mean, which FFmpeg's own mix exceeds by 3 dB
        sound = sound.mean(axis=1, keepdims=True, dtype=np.float32)
        return sound
    return np.repeat(sound, 2, axis=1) if sound.shape[1] == 1 else sound


def _opened(path: Path) -> Any:
    import av

    survey(path)
    try:
        options = {**OPTIONS, "format_whitelist": _FORMATS}
        return av.open(f"file:{path.absolute()}", options=options, timeout=_OPENING)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{path}: is no video or sound that can be read, or is damaged; export it as MP4") from error
