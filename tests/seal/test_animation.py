"""Animations: GIF and WebP with the marks of a video, and what `verify` finds in them."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lichtspiel.errors import MediaError, RequestError
from lichtspiel.media import probe
from lichtspiel.request import Request
from lichtspiel.seal import Marks, Sealed, seal_animation, verify
from lichtspiel.workflows.generate import generate
from tests.seal.conftest import provenance
from tests.seal.test_marked import clip  # noqa: F401  (a fixture)

SUFFIXES = ("gif", "webp")


@pytest.fixture(params=SUFFIXES)
def sealed(request: pytest.FixtureRequest, clip: Any, tmp_path: Path) -> Sealed:  # noqa: F811
    out = tmp_path / f"a.{request.param}"
    return seal_animation(iter(clip), provenance(), out, fps=8, marks=Marks.of("all"))


def test_it_bears_every_mark_and_verify_finds_them(sealed: Sealed) -> None:
    report = verify(sealed.path)
    said = report.credentials
    assert (said.state, said.here, said.id) == ("trusted", True, sealed.id)
    assert (report.watermark.found, report.watermark.id) == (True, sealed.watermark)
    assert report.labels.comment is not None
    assert sealed.id in report.labels.comment
    assert report.labels.aigc is not None
    assert (report.labels.aigc["Label"], report.labels.aigc["ProduceID"]) == ("1", sealed.id)


def test_frames_last_as_long_as_the_rate_says(sealed: Sealed) -> None:
    with Image.open(sealed.path) as image:
        total = 0
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            total += image.info["duration"]
        assert image.info["loop"] == 0
    assert total == pytest.approx(1000 * sealed.frames / 8, abs=5)  # 125 ms are no whole hundredths of a second


def test_a_changed_one_is_tampered_and_a_copy_keeps_the_watermark(sealed: Sealed, tmp_path: Path) -> None:
    content = bytearray(sealed.path.read_bytes())
    content[len(content) // 2] ^= 1
    changed = tmp_path / f"changed{sealed.path.suffix}"
    changed.write_bytes(content)
    assert verify(changed).credentials.state == "tampered"
    copy = tmp_path / f"copy{sealed.path.suffix}"
    with Image.open(sealed.path) as image:
        image.save(copy, save_all=True, **({"quality": 90} if copy.suffix == ".webp" else {}))
    report = verify(copy)
    assert (report.credentials.state, report.watermark.id) == ("none", sealed.watermark)


def test_what_is_damaged_or_hostile_ends_at_once(sealed: Sealed, tmp_path: Path) -> None:
    content = sealed.path.read_bytes()
    for cut in (6, 12, 13, 20, len(content) // 2):
        path = tmp_path / f"cut{sealed.path.suffix}"
        path.write_bytes(content[:cut])
        with suppress(MediaError):
            assert verify(path).credentials.state != "trusted"
    bomb = tmp_path / f"bomb{sealed.path.suffix}"
    if sealed.path.suffix == ".gif":
        bomb.write_bytes(content[:13] + b"!\xfe\x00" * (probe.MAX_CHUNKS + 400))
    else:
        bomb.write_bytes(content[:12] + b"JUNK\0\0\0\0" * (probe.MAX_CHUNKS + 1))
    with pytest.raises(MediaError, match="save it anew"):
        probe.survey(bomb)


def test_an_animation_of_many_frames_a_second_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="from 1 to 50 frames a second"):
        seal_animation([np.zeros((8, 8, 3), np.uint8)], provenance(), tmp_path / "a.gif", fps=60)


def test_generate_makes_one_by_its_name(random_nano: Path, tmp_path: Path) -> None:
    request = Request.of(prompt="a turtle", steps=1, frames=5, seed=1)
    made = generate(request, tmp_path / "a.gif", weights=random_nano)
    with Image.open(made.sealed.path) as image:
        assert (image.format, image.size, made.sealed.frames) == ("GIF", (128, 128), 5)
    shutil.copy(made.sealed.path, tmp_path / "elsewhere")  # told by its content, not by its name
    said = verify(tmp_path / "elsewhere").credentials
    assert (said.state, said.id) == ("trusted", made.sealed.id)
