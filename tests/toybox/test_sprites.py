"""The sprite bank holds every subject, moving, cropped and whole, and its licence."""

from __future__ import annotations

import io
import json
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lichtspiel.errors import InvalidInput
from lichtspiel.toybox import sprites
from lichtspiel.toybox.catalog import SUBJECTS

STATIC = {"donkey", "goose", "jellyfish"}


@pytest.fixture(scope="module")
def archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO((resources.files("lichtspiel.toybox") / "sprites.zip").read_bytes()))


def test_the_bank_is_small_and_stored_as_it_is(archive: zipfile.ZipFile) -> None:
    assert sum(member.file_size for member in archive.infolist()) < 12_000_000
    assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_bank_holds_exactly_the_catalog(archive: zipfile.ZipFile) -> None:
    assert set(archive.namelist()) == {f"{key}.webp" for key in SUBJECTS} | {"NOTICE", "index.json"}
    assert set(json.loads(archive.read("index.json"))) == set(SUBJECTS)


def test_the_notice_ships() -> None:
    notice = zipfile.ZipFile(Path(sprites.__file__).with_name("sprites.zip")).read("NOTICE").decode()
    assert "Copyright (c) Microsoft Corporation" in notice
    assert "MIT License" in notice
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in notice


@pytest.mark.parametrize("key", SUBJECTS)
def test_a_sprite_fills_its_cell_and_loops(key: str) -> None:
    sprite = sprites.sprite(key)
    assert sprite.frames.shape == (12, 128, 128, 4)
    assert sprite.frames.dtype == np.uint8
    assert (sprite.frames[..., :3] <= sprite.frames[..., 3:]).all(), "not premultiplied"

    seen = sprite.frames[..., 3].max(axis=0) > 0.3 * 255
    rows, columns = np.flatnonzero(seen.any(axis=1)) / 128, np.flatnonzero(seen.any(axis=0)) / 128
    found = (columns[0], rows[0], columns[-1] + 1 / 128, rows[-1] + 1 / 128)
    np.testing.assert_allclose(sprite.box, found, atol=2 / 128)
    left, top, right, bottom = sprite.box
    assert max(right - left, bottom - top) > 0.9
    assert min(left, top, 1 - right, 1 - bottom) > 0.01, "cut off by its cell"

    frames = sprite.frames.astype(np.float32)
    steps = np.abs(np.roll(frames, -1, axis=0) - frames).mean(axis=(1, 2, 3))
    assert steps[-1] <= 1.2 * steps[:-1].max() + 0.3, "the last frame does not lead back to the first"
    # What is left of motion in a still drawing is the compression.
    assert (steps.max() > 0.6) == (key not in STATIC)


def test_every_frame_shows_about_as_much_of_the_subject() -> None:
    for key in SUBJECTS:
        covered = sprites.sprite(key).frames[..., 3].mean(axis=(1, 2))
        # A butterfly with closed wings is the narrowest that is meant.
        assert covered.min() > 0.2 * covered.max(), key


def test_the_boats_come_without_water() -> None:
    for key in ("canoe", "motorboat", "sailboat", "speedboat"):
        frames = sprites.sprite(key).frames.astype(np.int32)
        red, green, blue, alpha = (frames[..., channel] for channel in range(4))
        water = (alpha > 200) & (blue - red > 80) & (blue - green > 45)
        assert water.mean() < 0.005, key


@pytest.mark.parametrize("key", ["airplane", "propeller-plane", "rocket"])
def test_planes_and_rockets_fly_level(key: str) -> None:
    alpha = sprites.sprite(key).frames[..., 3].astype(np.float64).mean(axis=0)
    rows = alpha[:, :].sum(axis=1)
    # Level means symmetric about the line of flight, as far as the perspective of the drawing allows.
    middle = round((rows * np.arange(128)).sum() / rows.sum())
    upper, lower = rows[middle - 40 : middle][::-1], rows[middle + 1 : middle + 41]
    assert np.abs(upper - lower).sum() < 0.25 * (upper + lower).sum()


def test_a_sprite_is_decoded_once_and_cannot_be_changed() -> None:
    assert sprites.sprite("turtle") is sprites.sprite("turtle")
    with pytest.raises(ValueError, match="read-only"):
        sprites.sprite("turtle").frames[0] = 0


def test_the_pixels_are_those_of_the_sheet(archive: zipfile.ZipFile) -> None:
    sheet = np.asarray(Image.open(io.BytesIO(archive.read("taxi.webp"))).convert("RGBA"))
    assert (sprites.sprite("taxi").frames[5, ..., 3] == sheet[128:256, 128:256, 3]).all()


def test_an_unknown_subject_names_the_nearest() -> None:
    with pytest.raises(sprites.UnknownSubject, match="'turtel' is not in the sprite bank; nearest: turtle") as caught:
        sprites.sprite("turtel")
    assert caught.value.key == "turtel"
    assert isinstance(caught.value, InvalidInput)
    with pytest.raises(sprites.UnknownSubject, match="SUBJECTS"):
        sprites.sprite("0000")
