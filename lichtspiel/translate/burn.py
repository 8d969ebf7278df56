"""Draw subtitles into frames: white letters with a dark outline, at the bottom, in a font that has them.

Letters are shaped by Raqm, which the wheels of Pillow contain, so Arabic joins and Hindi stacks as they should. Frames
are uint8 [height, width, 3].
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import tongues
from lichtspiel.translate.subtitles import Cue

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import ImageFont

    from lichtspiel.frames import Frame

__all__ = ["Burner", "find_font"]

_SHARE = 0.058  # of the height is a letter's size: 22 lines of it would fill the picture, as the BBC asks
_LEGIBLE = 9  # pixels: smaller letters cannot be read after encoding
_MARGIN = 0.05  # title-safe (SMPTE ST 2046-1)
_LEADING = 1.25
_MISSING = "\U0010ffff"

_PREFERRED = ("NotoSans", "DejaVuSans.", "Arial", "LiberationSans", "Helvetica")
_SUFFIXES = (".ttf", ".otf", ".ttc")


def find_font(text: str, given: Path | None = None) -> Path | None:
    """A font with every letter of a text: the given one, or one of this machine; None for Pillow's own, which has those
    of English. Raises InvalidInput where there is none."""
    letters = "".join(sorted({letter for letter in text if not letter.isspace() and letter.isprintable()}))
    if given is not None:
        if missing := _lacking(given, letters):
            raise InvalidInput(f"--font {given}: has no letter for {missing[:10]!r}; choose another font")
        return given
    for path in _installed():
        try:
            if not _lacking(path, letters):
                return path
        except InvalidInput:
            continue
    if not _lacking(None, letters):
        return None
    script = tongues.script_of(text).lower() or "these"
    raise InvalidInput(
        f"--burn: no font here has the letters of the subtitles ({script}); name one with --font FILE, such as Noto "
        "Sans, or install it (Debian: apt install fonts-noto)"
    )


class Burner:
    """The subtitles of one video of one size, drawn once each.

    Raises InvalidInput where no font has the letters, the letters could not be read at that size, or the language needs
    a shaping that this Pillow lacks.
    """

    def __init__(self, cues: Sequence[Cue], language: str, height: int, width: int, font: Path | None = None) -> None:
        from PIL import features

        text = "".join(cue.text for cue in cues)
        if tongues.right_to_left(language) and not features.check("raqm"):
            raise InvalidInput(
                f"--burn: {tongues.name_of(language)} needs Raqm to join its letters, which this Pillow lacks; "
                "pip install --force-reinstall pillow, or leave --burn out"
            )
        self._cues, self._size = cues, (height, width)
        self._direction = "rtl" if tongues.right_to_left(language) else None
        self._font, self._pixels = self._fitting(find_font(text, font))

    def burn(self, frames: Iterable[Frame], fps: float) -> Iterator[Frame]:
        """The frames with the subtitle of their time."""
        at, drawn, shown = 0, None, -1
        for number, frame in enumerate(frames):
            time = number / fps
            while at < len(self._cues) and self._cues[at].end <= time:
                at += 1
            if at == len(self._cues) or self._cues[at].start > time:
                yield frame
                continue
            if shown != at:
                drawn, shown = self._draw(self._cues[at].text), at
            assert drawn is not None
            yield _blended(frame, *drawn)

    def _fitting(self, path: Path | None) -> tuple[ImageFont.FreeTypeFont, int]:
        """The font in the size that suits the height, or in which the widest line fits."""
        height, width = self._size
        pixels = max(round(min(height, width * 9 / 16) * _SHARE), _LEGIBLE)
        room = width * (1 - 2 * _MARGIN)
        lines = [line for cue in self._cues for line in cue.text.split("\n")]
        while pixels >= _LEGIBLE:
            font = _font(path, pixels)
            if max((font.getlength(line, direction=self._direction) for line in lines), default=0) <= room:
                return font, pixels
            pixels -= 1
        raise InvalidInput(f"--burn: subtitles cannot be read in a picture of {width}x{height}; leave --burn out")

    def _draw(self, text: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int]:
        """How much of the picture stays [rows, width], what is added to it, and the first row."""
        import numpy as np
        from PIL import Image, ImageDraw

        height, width = self._size
        lines = text.split("\n")
        step = round(self._pixels * _LEADING)
        outline = max(round(self._pixels / 10), 1)
        rows = step * len(lines) + 2 * outline + self._pixels // 3
        letters, plate = (Image.new("L", (width, rows)) for _ in range(2))
        for number, line in enumerate(lines):
            place = (width / 2, outline + self._pixels + number * step)
            options: Any = {"font": self._font, "anchor": "ms", "fill": 255, "direction": self._direction}
            ImageDraw.Draw(letters).text(place, line, **options)
            ImageDraw.Draw(plate).text(place, line, stroke_width=outline, **options)
        white, dark = (np.asarray(image, np.float32)[..., None] / 255 for image in (letters, plate))
        first = max(height - round(height * _MARGIN) - rows, 0)
        keep, add = ((1 - dark) * (1 - white)).astype(np.float32), (white * 255).astype(np.float32)
        return keep[: height - first], add[: height - first], first


def _blended(frame: Frame, keep: npt.NDArray[np.float32], add: npt.NDArray[np.float32], first: int) -> Frame:
    import numpy as np

    frame = frame.copy()
    rows = frame[first : first + len(keep)]
    rows[...] = np.round(rows * keep + add).astype(np.uint8)
    return frame


def _installed() -> list[Path]:
    """The fonts of this machine, those first that suit subtitles."""
    home = Path.home()
    folders = {
        "darwin": [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"],
        "win32": [Path("C:/Windows/Fonts")],
    }.get(sys.platform, [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts"])
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*"))
             if path.suffix.lower() in _SUFFIXES]  # fmt: skip

    def rank(path: Path) -> tuple[int, int, str]:
        suits = next((at for at, name in enumerate(_PREFERRED) if path.name.startswith(name)), len(_PREFERRED))
        plain = any(word in path.name for word in ("Regular", "DejaVuSans.", "Arial."))
        return (suits, 0 if plain else 1, path.name)

    return sorted(found, key=rank)[:400]


def _lacking(path: Path | None, letters: str) -> str:
    """The letters that a font does not have: they look like the sign for a missing one."""
    font = _font(path, 24)
    missing = bytes(font.getmask(_MISSING))
    return "".join(
        letter for letter in letters
        if bytes(font.getmask(letter)) == missing and not _combines(letter)
    )  # fmt: skip


def _combines(letter: str) -> bool:
    """Marks and invisible characters have no picture of their own."""
    import unicodedata

    return unicodedata.category(letter)[0] in "MCZ"


@cache
def _font(path: Path | None, pixels: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    if path is None:
        font = ImageFont.load_default(pixels)
        assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
        return font
    try:
        return ImageFont.truetype(str(path), pixels)
    except OSError as error:
        raise InvalidInput(f"--font {path}: is no font that can be read ({error})") from None
