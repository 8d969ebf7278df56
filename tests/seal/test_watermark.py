from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lichtspiel.seal import detect as detector
from lichtspiel.seal import payload
from lichtspiel.seal.detect import CERTAIN, FRAMES, Detection, detect
from lichtspiel.seal.watermark import TILE, Watermark, chip_size, layout, mark
from tests.seal.attacks import captioned, cropped, encoded, photographed, scaled

Frame = npt.NDArray[np.uint8]

ID = 0xC0FFEE42


def scenery(seed: int, height: int, width: int, roughness: float = 1.6) -> Frame:
    """Coloured clouds, whose spectrum falls as that of natural pictures does or faster, without edges."""
    draw = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    falling = np.maximum(np.hypot(rows, columns), 1 / width) ** -roughness
    channels = np.fft.irfft2(np.fft.rfft2(draw.normal(size=(3, height, width))) * falling, (height, width))
    common = channels.mean(0)
    spread = [128 + 40 * (0.7 * common / common.std() + 0.3 * channel / channel.std()) for channel in channels]
    return np.clip(np.stack(spread, -1), 0, 255).astype(np.uint8)


@cache
def film(height: int = 256, width: int = 384, count: int = 8) -> tuple[Frame, ...]:
    """A camera that moves over scenery, with a flat disc in front."""
    whole = scenery(3, height + 32, width + 32)
    frames = []
    for number in range(count):
        frame = np.ascontiguousarray(whole[number : number + height, 2 * number : 2 * number + width])
        frames.append(cv2.circle(frame, (width // 2, height // 2), height // 4, (200, 180, 150), -1))
    return tuple(frames)


@cache
def marked(height: int = 256, width: int = 384, count: int = 8) -> tuple[Frame, ...]:
    watermark = Watermark(ID, height, width)
    return tuple(watermark.mark(frame) for frame in film(height, width, count))


def psnr(before: Sequence[Frame], after: Sequence[Frame]) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(before, float) - np.asarray(after)) ** 2)))


# The message.


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.lists(st.integers(0, 143), max_size=8, unique=True))
def test_a_message_survives_flipped_bits(id: int, scheme: int, flipped: list[int]) -> None:
    # Half the free distance, less one, wherever they are.
    values = payload.encode(id, scheme).astype(float)
    values[flipped] *= -1
    assert payload.decode(values) == payload.Message(scheme, id)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_message_survives_noise_as_loud_as_itself(id: int, seed: int) -> None:
    values = payload.encode(id) + np.random.default_rng(seed).normal(0, 0.7, payload.CODE_BITS)
    assert payload.decode(values) == payload.Message(payload.SCHEME, id)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.lists(st.integers(0, 143), max_size=50, unique=True))
def test_only_the_ratio_of_values_counts_and_missing_ones_do_little(id: int, loudness: float, lost: list[int]) -> None:
    values = payload.encode(id) * loudness
    values[lost[:16]] = 0
    assert payload.decode(values) == payload.Message(payload.SCHEME, id)


def test_the_code_is_as_good_as_the_tables_say() -> None:
    # It is linear, so the lightest message is the distance; one bit set gives the generators' weights.
    zero = payload.encode(0, 0)
    one = [np.sum(payload.encode(1 << bit, 0) != zero) for bit in range(32)]
    assert min(one) >= 18


def test_messages_of_known_ids_do_not_change() -> None:
    # What is in videos today must be readable by every later version.
    said = "".join("01"[int(value < 0)] for value in payload.encode(ID))
    assert f"{int(said, 2):036x}" == "3a82888412fdccfa22b6ac189fa6ef7b49cf"
    role, signs = layout()
    assert (int((role < 0).sum()), int(role.max()), int(signs.sum())) == (533, 143, -34)


def test_noise_is_no_message() -> None:
    draw = np.random.default_rng(1)
    assert [payload.decode(draw.normal(size=payload.CODE_BITS)) for _ in range(20)].count(None) >= 19
    assert payload.decode(np.zeros(payload.CODE_BITS)) is None


# The mark.


@pytest.mark.parametrize(("height", "width"), [(480, 832), (256, 384), (64, 64), (65, 99)])
def test_the_mark_is_faint_and_has_no_colour(height: int, width: int) -> None:
    before, after = film(height, width, 2), marked(height, width, 2)
    assert psnr(before, after) > 41
    change = after[0].astype(int) - before[0]
    inside = np.all((before[0] > 8) & (before[0] < 247), -1)
    assert np.ptp(change[inside], axis=-1).max() == 0
    assert np.abs(change).max() <= 10
    assert abs(change.mean()) < 0.1


def test_the_same_frame_is_marked_the_same_way_each_time() -> None:
    frame = film()[0]
    before = frame.copy()
    first = mark(frame, ID)
    assert np.array_equal(frame, before)
    assert np.array_equal(first, mark(frame, ID))
    assert np.array_equal(first, Watermark(ID, *frame.shape[:2]).mark(frame[:, ::-1].copy()[:, ::-1]))
    assert not np.array_equal(first, mark(frame, ID + 1))


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_do_not_wrap_around(value: int) -> None:
    frame = np.full((64, 64, 3), value, np.uint8)
    assert np.abs(mark(frame, ID).astype(int) - value).max() <= 10


@pytest.mark.parametrize("size", [(2, 2), (48, 64), (2, 400), (1080, 1920)])
def test_every_size_can_be_marked(size: tuple[int, int]) -> None:
    frame = np.full((*size, 3), 90, np.uint8)
    assert mark(frame, 2**32 - 1).shape == frame.shape


def test_the_mark_is_found_in_a_frame_so_large_that_it_is_reduced_first() -> None:
    frame = np.random.default_rng(0).integers(60, 190, (9, 16, 3), np.uint8)
    large = cv2.resize(frame, (4096, 2304), interpolation=cv2.INTER_CUBIC)
    assert detect([mark(large, ID)]).id == ID
    assert not detect([large]).found


@pytest.mark.parametrize("size", [(160, 33_000), (33_000, 64)])
def test_the_mark_is_found_in_a_very_long_frame(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    warp = cv2.warpAffine

    def limited(image: Frame, matrix: object, shape: tuple[int, int], **more: object) -> object:
        assert max(*image.shape, *shape) < 32_767  # OpenCV 4 takes no more
        return warp(image, matrix, shape, **more)

    monkeypatch.setattr(cv2, "warpAffine", limited)
    frame = np.random.default_rng(0).integers(100, 140, (*size, 3), np.uint8)
    assert detect([mark(frame, ID)]).found
    assert not detect([frame]).found


def test_chips_grow_with_the_frame() -> None:
    assert chip_size(480, 832) == chip_size(832, 480) == 480 / 64
    assert chip_size(64, 64) == 1.5
    assert TILE * chip_size(64, 64) <= 64  # a whole tile fits into nano's frame


# Finding it.


def found(frames: Sequence[Frame]) -> tuple[bool, int | None, bool]:
    result = detect(frames)
    return result.found, result.id, result.mirrored


def test_it_is_found_in_untouched_frames() -> None:
    result = detect(marked())
    assert (result.found, result.id, result.mirrored) == (True, ID, False)
    assert result.score > 12
    assert detect(iter(marked())) == result


ATTACKED = {
    "H.264 CRF 28": lambda frames: encoded(frames, 28),
    "half size": lambda frames: scaled(frames, 0.5),
    "larger": lambda frames: scaled(frames, 1.5),
    "crop": lambda frames: encoded(cropped(frames, 0.3), 18),
    "caption": captioned,
    "one frame as JPEG": photographed,
    "one frame": lambda frames: frames[3:4],
}


@pytest.mark.parametrize("name", ATTACKED)
def test_it_survives(name: str) -> None:
    assert found(ATTACKED[name](marked())) == (True, ID, False)


def test_it_is_found_in_the_mirror() -> None:
    assert found([frame[:, ::-1] for frame in encoded(marked(), 23)]) == (True, ID, True)


def test_it_survives_the_door_at_the_size_of_nano() -> None:
    assert found(encoded(marked(64, 64, 17), 16)) == (True, ID, False)


def test_it_is_not_found_where_it_is_not() -> None:
    sizes = [(64, 64), (64, 80), (56, 72), (72, 96)]
    results = [detect([scenery(seed, *sizes[seed % 4], 0.4 + seed % 5 / 4)]) for seed in range(120)]
    assert [result for result in results if result.found or result.id is not None] == []
    assert max(result.score for result in results) < CERTAIN - 0.5
    assert not detect(film()).found


@pytest.mark.parametrize("frame", [np.zeros((64, 64, 3)), np.full((90, 160, 3), 255), np.zeros((2, 2, 3))])
def test_nothing_is_not_found_in_nothing(frame: npt.NDArray[np.float64]) -> None:
    assert not detect([frame.astype(np.uint8)] * 2).found


def test_no_frames_at_all() -> None:
    assert detect([]) == Detection(found=False, id=None, score=0.0, mirrored=False)


def test_another_scheme_is_found_but_its_id_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = payload.encode(ID, payload.SCHEME + 1)
    monkeypatch.setattr(payload, "encode", lambda *_: theirs)
    frames = [mark(frame, ID) for frame in film()]
    monkeypatch.undo()
    assert found(frames) == (True, None, False)


def test_a_weak_pilot_counts_only_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = marked(64, 64, 17)
    monkeypatch.setattr(detector, "CERTAIN", 99.0)
    assert found(frames) == (True, ID, False)
    monkeypatch.setattr(payload, "decode", lambda values: None)
    assert found(frames) == (False, None, False)


def test_it_takes_what_it_needs_and_no_more() -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield marked()[taken % 8]

    assert detect(endless()).id == ID  # type: ignore[arg-type]
    assert taken == FRAMES


def test_a_video_that_changes_its_size_is_read_as_far_as_it_fits() -> None:
    assert found([*marked(), *scaled(marked(), 0.75)]) == (True, ID, False)
