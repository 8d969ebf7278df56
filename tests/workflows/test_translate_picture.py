"""Text in the picture: told with its times, and made anew where it stands, while it stands there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")
pytest.importorskip("rapidocr", reason="rapidocr is in the extra understand")

from lichtspiel.errors import InvalidInput
from lichtspiel.frames import Frame
from lichtspiel.media.video import read_video
from lichtspiel.seal import Marks, Provenance, seal, verify
from lichtspiel.workflows.terms import Terms
from lichtspiel.workflows.translate import Job, Result, translate
from tests.inference.tiny import registered
from tests.translate.test_translators import apertium

__all__ = ["apertium"]

FPS, SIZE = 8, (160, 320)
SHOWN = (1.0, 2.5)
QUICK = {"model": "tiny-vace", "steps": 1, "guidance": 1.0, "seed": 3, "dtype": "float32"}


def frames() -> Iterator[Frame]:
    """Three seconds of a gray ramp; a word is shown for a second and a half of them."""
    for number in range(3 * FPS):
        frame = np.repeat(np.linspace(40, 90, SIZE[1], dtype=np.uint8)[None, :, None], SIZE[0], 0).repeat(3, 2).copy()
        if SHOWN[0] <= number / FPS < SHOWN[1]:
            cv2.putText(frame, "BAKERY", (60, 90), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 3)
        yield frame


@pytest.fixture
def street(tmp_path: Path) -> Path:
    made = Provenance(
        model="test", version="0", source_type="algorithmicMedia", prompt="", negative="", parameters={}
    )  # fmt: skip
    return seal(frames(), made, tmp_path / "street.mp4", fps=FPS, marks=Marks.none("a test")).path


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "street.srt"
    path.write_text("1\n00:00:00,500 --> 00:00:02,000\nUna calle.\n", encoding="utf-8")
    return path


@pytest.mark.usefixtures("apertium")
def test_text_is_told_with_its_times_and_its_translation(street: Path, words: Path, tmp_path: Path) -> None:
    job = Job(target="es", source="en", shots=(), subtitles=words, picture_text="tell")
    made = translate(street, tmp_path / "out.mp4", job, terms=Terms())
    (one,) = made.written
    assert (one["text"], one["translation"]) == ("BAKERY", "eng-spa: BAKERY")
    assert one["start"] == pytest.approx(SHOWN[0], abs=1)
    assert one["end"] == pytest.approx(SHOWN[1], abs=1)
    left, top, right, bottom = one["box"]  # type: ignore[misc]
    assert 0.1 < left < 0.25  # type: ignore[operator]
    assert 0.7 < right < 0.95  # type: ignore[operator]
    assert 0.2 < top < bottom < 0.7  # type: ignore[operator]
    assert made.picture == "copied"
    german = translate(street, tmp_path / "de.mp4", Job(target="de", source="en", shots=(), subtitles=words,
                                                        picture_text="tell"), terms=Terms())  # fmt: skip
    assert german.written[0]["translation"] is None
    assert any("the text in the picture is not translated" in note for note in german.notes)
    with pytest.raises(InvalidInput, match="does not translate from English to German"):
        translate(street, tmp_path / "no.mp4", Job(target="de", source="en", shots=(), subtitles=words,
                                                   picture_text="replace"), terms=Terms())  # fmt: skip


@pytest.fixture
def remade(
    street: Path, words: Path, random_nano: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    apertium: None,
) -> Result:  # fmt: skip
    with registered(random_nano, tmp_path_factory.mktemp, ["tiny-vace"]) as folders:
        job = Job(target="es", source="en", shots=(), subtitles=words, picture_text="replace", picture_options=QUICK,
                  picture_weights=(folders["tiny-vace"],))  # fmt: skip
        return translate(street, tmp_path / "out.mp4", job, terms=Terms())


def test_text_is_made_anew_in_its_place_and_time_alone(street: Path, remade: Result) -> None:
    assert remade.picture == "edited"
    before, after = (list(read_video(path)) for path in (street, remade.sealed.path))
    assert len(after) == len(before)
    (one,) = remade.written
    box = [float(side) for side in one["box"]]  # type: ignore[union-attr, arg-type]
    top, bottom = round(box[1] * SIZE[0]), round(box[3] * SIZE[0])
    left, right = round(box[0] * SIZE[1]), round(box[2] * SIZE[1])
    apart = np.stack([np.abs(old.astype(int) - new).mean(-1) for old, new in zip(before, after, strict=True)])
    inside = apart[:, top:bottom, left:right].mean(axis=(1, 2))
    outside = apart[:, : max(top - 40, 1)].mean(axis=(1, 2))
    first, last = round(float(one["start"]) * FPS), round(float(one["end"]) * FPS)  # type: ignore[arg-type]
    assert inside[first + 1 : last - 1].min() > 3 * max(float(outside.max()), 1.0)
    assert max([*inside[: max(first - 1, 0)], *inside[last + 1 :]], default=0) < inside[first + 1 : last - 1].min() / 2
    report = verify(remade.sealed.path)
    assert report.credentials.state == "trusted"
    assert [each.role for each in report.credentials.ingredients] == ["original"]
    assert report.credentials.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert "AI-generated text in the picture" in (report.labels.comment or "")
    assert report.watermark.found
