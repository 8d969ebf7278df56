"""The outline found again by the background, and objects that leap."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lichtspiel.footage.backdrop import Backdrop, Background
from lichtspiel.footage.pixels import Floats, Mask, lab_of
from lichtspiel.footage.refine import refined
from lichtspiel.footage.segment import box_of
from lichtspiel.footage.selection import Selection
from lichtspiel.footage.track import follow_selections
from lichtspiel.frames import Frame
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, sample
from tests.footage.test_track import overlap

WIDTH, HEIGHT = 160, 120


def meadow() -> Frame:
    """A background with soft spots of gray."""
    grays = np.random.default_rng(4).uniform(70, 170, (12, 16, 1)).repeat(3, -1)
    spots = (grays + np.array([0, 6, -6])).astype(np.float32)
    return np.asarray(cv2.resize(spots, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).clip(0, 255), np.uint8)


def known(frame: Frame) -> Background:
    return Background(lab_of(frame).astype(np.float32), np.ones(frame.shape[:2], np.float32), 24.0)


def disc(x: int, y: int, radius: int) -> Mask:
    return np.asarray(cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), (x, y), radius, 1, -1), bool)


def box(left: int, top: int, right: int, bottom: int) -> Mask:
    return Selection(box=(left, top, right, bottom)).area(WIDTH, HEIGHT)


def test_a_hole_and_a_shadow_are_not_part_of_the_object() -> None:
    ground = meadow()
    ring = disc(80, 50, 30) & ~disc(80, 50, 15)
    frame = ground.copy()
    shadow = np.zeros((HEIGHT, WIDTH), bool)
    shadow[70:85, 52:108] = True
    frame[shadow] = (frame[shadow] * 0.65).astype(np.uint8)
    frame[ring] = (220, 60, 40)
    area = box(50, 20, 111, 85)
    first = disc(80, 50, 30) | shadow  # as GrabCut takes it
    found = refined(frame, first, area, known(ground))
    assert overlap(first, ring) < 0.75
    assert overlap(found, ring) > 0.95


def test_what_reaches_into_the_box_is_left_out() -> None:
    ground = meadow()
    frame = ground.copy()
    other, own = disc(100, 60, 34), disc(60, 60, 22)
    frame[other] = (40, 60, 230)
    frame[own] = (220, 60, 40)
    area = box(38, 38, 83, 83)
    going: Floats = np.stack(np.meshgrid(np.zeros(WIDTH), np.zeros(HEIGHT)), -1).astype(np.float32)
    going[other] = (-6, 0)
    going[own] = (5, 0)
    found = refined(frame, other & area, area, known(ground), going)
    assert overlap(found, own) > 0.95


@pytest.mark.parametrize(("noise", "least", "most"), [(0.5, 24, 30), (6, 60, 72)])
def test_the_spread_is_that_of_the_frame(noise: float, least: float, most: float) -> None:
    ground = meadow()
    grain = np.random.default_rng(1).normal(0, noise, ground.shape)
    frame = (ground + grain).clip(0, 255).astype(np.uint8)
    found = replace(known(ground), spread=50.0).fitted(lab_of(frame), np.ones((HEIGHT, WIDTH), bool))
    assert least <= found.spread <= most


def test_what_is_known_to_be_covered_is_no_part_of_the_background() -> None:
    ground = meadow()
    thing = disc(80, 60, 20)
    standing = ground.copy()
    standing[thing] = (220, 60, 40)
    backdrop = Backdrop([standing] * 9 + [ground] * 3)
    lab, _ = backdrop.of(0)
    assert np.abs(lab[60, 80] - lab_of(standing)[60, 80]).max() < 3
    backdrop.leave_out(dict.fromkeys(range(9), thing))
    lab, sure = backdrop.of(0)
    assert np.abs(lab[60, 80] - lab_of(ground)[60, 80]).max() < 3
    assert sure[60, 80] == 1


def test_an_object_that_leaps_from_the_first_frame_on_is_not_lost() -> None:
    frames = render(sample(3123, FULL), 3123, width=416, height=240, frames=17)  # a clock bounces, 13 pixels a frame
    left, top, right, bottom = box_of(frames.masks[0] == 1) or (0, 0, 0, 0)
    found = follow_selections(list(frames.frames[:7]), 0, [Selection(box=(left, top, right, bottom))])
    for number in range(7):
        assert overlap(found.masks(number)[0], frames.masks[number] == 1) > 0.8, number


def test_an_object_that_comes_to_rest_is_not_taken_for_the_background() -> None:
    ground = meadow()
    places = [30 + 2 * number for number in range(12)] + [52] * 38
    frames = []
    for x in places:
        frame = ground.copy()
        frame[disc(x, 60, 20)] = (150, 100, 60)
        frame[disc(x + 4, 66, 9)] = (90, 140, 110)
        frames.append(frame)
    found = follow_selections(frames, 0, [Selection(box=(10, 40, 51, 81))])
    for number in (0, 24, 49):
        assert overlap(found.masks(number)[0], disc(places[number], 60, 20)) > 0.7, number
