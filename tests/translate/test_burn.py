from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import burn
from lichtspiel.translate.burn import Burner, find_font
from lichtspiel.translate.subtitles import Cue

GRAY = np.full((180, 320, 3), 128, np.uint8)


def drawn(text: str, language: str = "es") -> Any:
    cues = [Cue(0.5, 1.0, text)]
    return list(Burner(cues, language, 180, 320).burn([GRAY] * 16, 8))


def test_words_are_there_in_their_time_only() -> None:
    frames = drawn("Hola,\nque tal?")
    changed = [not np.array_equal(frame, GRAY) for frame in frames]
    assert changed == [4 <= number < 8 for number in range(16)]
    frame = frames[5].astype(int)
    assert frame.max() == 255
    assert frame.min() < 20, "an outline around the letters"
    rows = np.flatnonzero((frame != 128).any(axis=(1, 2)))
    columns = np.flatnonzero((frame != 128).any(axis=(0, 2)))
    assert 130 < rows[0] < rows[-1] < 180 * 0.96
    assert abs((columns[0] + columns[-1]) / 2 - 160) < 3, "in the middle"


def test_long_lines_are_set_smaller_until_they_fit() -> None:
    wide = drawn("W" * 30)[5]
    columns = np.flatnonzero((wide != 128).any(axis=(0, 2)))
    assert columns[0] >= 320 * 0.05 - 2
    assert columns[-1] <= 320 * 0.95 + 2
    with pytest.raises(InvalidInput, match=r"cannot be read in a picture of 64x48"):
        Burner([Cue(0, 1, "a line that is far too long for so small a picture")], "en", 48, 64)


def test_arabic_is_joined_and_runs_from_the_right() -> None:
    try:
        find_font("سلام!")
    except InvalidInput:
        pytest.skip("no font with Arabic letters here")
    joined, marked = (drawn(text, "ar")[5] for text in ("سلام", "سلام!"))
    first = [np.flatnonzero((frame != 128).any(axis=(0, 2)))[0] for frame in (joined, marked)]
    assert np.abs(marked[:, : first[0]].astype(int) - 128).max() > 60, "the mark stands to the left of the word"


def test_letters_that_no_font_has_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burn, "_installed", list)
    assert find_font("Hello, you!") is None
    with pytest.raises(InvalidInput, match=r"no font here has the letters of the subtitles \(cjk\).*--font"):
        find_font("你好")
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(InvalidInput, match=r"--font .*no\.ttf: is no font"):
        find_font("a", tmp_path / "no.ttf")
