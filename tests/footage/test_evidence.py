"""What speaks against a mask, on pictures with a known object."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lichtspiel.footage.evidence import contrast, left_out, shape, torn, unchanged
from lichtspiel.footage.memory import Memory

WIDTH, HEIGHT = 80, 60


def square(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def picture(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A light object on a dark ground, in Lab."""
    lab = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    lab[..., 0] = np.where(mask, 200, 60)
    return lab


def test_what_a_mask_leaves_out_is_seen_where_it_has_the_object_s_colors_and_is_connected() -> None:
    whole, everywhere = square(20, 10, 60, 50), np.ones((HEIGHT, WIDTH), bool)
    half = square(20, 10, 40, 50)
    assert left_out(whole, whole, everywhere) == 0
    assert left_out(half, whole, everywhere) == pytest.approx(0.5)
    assert left_out(half, whole, ~whole) == 0
    assert left_out(half, half | square(50, 10, 70, 50), everywhere) == 0
    assert left_out(half, whole & False, everywhere) == 0  # no background is known


def test_a_shape_is_compared_with_the_selected_one_where_that_moved_to() -> None:
    selected = square(20, 10, 40, 30)
    anchor = Memory(selected.astype(np.float32), picture(selected))
    anchor.move(np.array([[1.0, 0, -8], [0, 1, 0]]))
    assert shape(square(28, 10, 48, 30), anchor) == {"shape": 1.0, "size": 1.0}
    small = shape(square(28, 10, 38, 30), anchor)
    assert small["shape"] == pytest.approx(0.5)
    assert small["size"] == pytest.approx(0.5)
    assert shape(square(60, 40, 70, 50), anchor)["shape"] == 0
    assert shape(square(0, 0, 0, 0), anchor) == {"shape": 0.0, "size": 0.0}


def test_an_outline_on_edges_has_more_contrast_than_one_beside_them() -> None:
    truth = square(20, 10, 40, 30)
    lab = picture(truth)
    assert contrast(truth, lab) == 1.0
    assert 0.2 < contrast(square(20, 10, 50, 30), lab) < 0.8
    assert contrast(square(50, 35, 70, 55), lab) == 0
    assert contrast(square(0, 0, 0, 0), lab) == 0


def test_a_mask_is_torn_where_one_part_stands_still_and_another_goes() -> None:
    still, going = np.zeros(60, np.float32), np.full(40, 3.0, np.float32)
    assert torn(still) == torn(going) == 0
    assert torn(np.concatenate([still, going])) == pytest.approx(0.4)
    assert torn(np.concatenate([still, going, going])) == pytest.approx(60 / 140)
    assert torn(going[:9]) is None


def test_what_stays_is_told_from_what_went_whatever_the_camera_did() -> None:
    first, later = picture(square(20, 10, 40, 30)), picture(square(35, 10, 55, 30))
    panned = np.array([[1.0, 0, -5], [0, 1, 0]])
    same = unchanged(first, later, panned)  # seen from the camera, the object moved by 10
    assert not same[10:30, 25:35].any()
    assert same[10:30, 35:45].all()
    assert not same[10:30, 45:55].any()
    assert same[35:, 10:].all()
