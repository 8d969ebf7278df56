"""Lips that follow a new voice, by what the user has: a network as an ONNX file, or a command. Nothing here comes with
the package.

    onnx:FILE      takes "frames", float32 [n, 3, height, width] of RGB from 0 to 1, and "sound", float32 [n, 3200]: for
                   each frame the 0.2 seconds of the new voice around it, at 16 kHz. Gives the n frames anew.
    command:FILE   is called as FILE VIDEO SOUND OUT: the video as it was, the new voice as a WAV file of 16 kHz, and
                   where it writes a video of as many frames of the same size, best without loss.

Only frames in which the voice speaks are taken from either; all others stay as they are.
"""

from __future__ import annotations

import itertools
import subprocess
import wave
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput, LichtspielError, MediaError
from lichtspiel.media.video import read_paced
from lichtspiel.storage import file_sha256
from lichtspiel.translate import engines
from lichtspiel.workflows.plugs import open_onnx

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lichtspiel.frames import Frame

__all__ = ["KINDS", "RATE", "Lips", "choose"]

KINDS = ("onnx", "command")
RATE = 16_000
SOUND = 3200
"""Samples of the voice that belong to one frame: the 0.2 seconds around it, as Wav2Lip and its kind listen."""

_TOGETHER = 16  # frames that a network gets at once
_SECONDS = 6 * 3600


@dataclass(frozen=True)
class Lips:
    """What makes the lips follow. `name` is for the record: the kind, and the digest of its file."""

    kind: str
    file: Path
    name: str
    network: Any = None

    def follow(
        self, video: Path, frames: Iterable[Frame], fps: float, voice: npt.NDArray[np.float32],
        spans: Sequence[tuple[float, float]], folder: Path,
    ) -> Iterator[Frame]:  # fmt: skip
        """The frames with lips that follow `voice`, float32 [samples] at RATE, within `spans` (seconds). Raises
        LichtspielError where the command fails, and MediaError for frames that do not fit."""
        made = self._by_command(video, voice, folder) if self.kind == "command" else None
        numbered = enumerate(frames)
        while batch := list(itertools.islice(numbered, _TOGETHER)):
            spoken = [number for number, _ in batch if any(start <= number / fps < end for start, end in spans)]
            fresh = self._fresh(batch, spoken, fps, voice) if made is None else _taken(made, batch, self.file)
            for number, frame in batch:
                yield fresh[number] if number in spoken else frame

    def _fresh(
        self, batch: Sequence[tuple[int, Frame]], spoken: Sequence[int], fps: float, voice: npt.NDArray[np.float32]
    ) -> dict[int, Frame]:
        """The frames that the network makes of those in which somebody speaks."""
        import numpy as np

        if not spoken:
            return {}
        given = np.stack([frame for number, frame in batch if number in spoken]).astype(np.float32) / 255
        padded = np.pad(voice, SOUND)
        starts = [round((number + 0.5) / fps * RATE) + SOUND // 2 for number in spoken]
        sound = np.stack([np.resize(padded[start : start + SOUND], SOUND) for start in starts])
        pictures = np.ascontiguousarray(given.transpose(0, 3, 1, 2))
        try:
            (made, *_) = self.network.run(None, {"frames": pictures, "sound": sound.astype(np.float32)})
        except Exception as error:  # onnxruntime raises its own kinds
            raise MediaError(f"--lips {self.file}: the network failed: {str(error).splitlines()[0]}") from error
        if made.shape != pictures.shape:
            raise MediaError(f"--lips {self.file}: gives {[*made.shape]} for frames {[*pictures.shape]}")
        levels = (np.clip(made, 0, 1).transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
        return dict(zip(spoken, levels, strict=True))

    def _by_command(self, video: Path, voice: npt.NDArray[np.float32], folder: Path) -> Iterator[Frame]:
        import numpy as np

        sound, out = folder / "voice.wav", folder / "lips.mp4"
        with wave.open(str(sound), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((np.clip(voice, -1, 1) * 32767).astype(np.int16).tobytes())
        command = [str(self.file.resolve()), str(video), str(sound), str(out)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LichtspielError(f"--lips {self.file}: failed: {error}") from error
        if done.returncode or not out.exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            why = said[-1] if said else f"exit code {done.returncode}" if done.returncode else "it wrote no video"
            raise LichtspielError(f"--lips {self.file}: failed: {why}")
        return read_paced(out)[1]


def _taken(made: Iterator[Frame], batch: Sequence[tuple[int, Frame]], file: Path) -> dict[int, Frame]:
    """As many frames of the command's video, checked to be of the same size."""
    taken: dict[int, Frame] = {}
    for number, frame in batch:
        new = next(made, None)
        if new is None:
            raise MediaError(f"--lips {file}: its video ends after {number} frames; it has as many as the original")
        new = new[: frame.shape[0], : frame.shape[1]]
        if new.shape != frame.shape:
            raise MediaError(f"--lips {file}: its video has another size than the original")
        taken[number] = new
    return taken


def choose(text: str) -> Lips:
    """What was named, open. Raises InvalidInput for what is not there, and MediaError for a network that takes other
    things than the interface says."""
    named = engines.parse("--lips", text, KINDS)
    wanted = "an ONNX network for lips" if named.kind == "onnx" else "a program that is called as VIDEO SOUND OUT"
    engines.undivided(named)
    file = engines.existing(named, wanted)
    network = None
    if named.kind == "onnx":
        network = open_onnx(file)
        takes = {one.name: one.shape for one in network.get_inputs()}
        if set(takes) != {"frames", "sound"} or len(takes["frames"]) != 4 or len(takes["sound"]) != 2:
            rule = 'it takes "frames" [n, 3, height, width] and "sound" [n, 3200]; see docs/translate.md'
            raise InvalidInput(f"--lips {file}: takes {', '.join(takes)}; {rule}")
    return Lips(named.kind, file, f"lips {named.kind} {file.name} {file_sha256(file)[:12]}", network)
