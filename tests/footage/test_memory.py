"""An object that passes behind another one: what is remembered of it, and that it is found again."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.memory import Memory
from lichtspiel.footage.pixels import lab_of
from lichtspiel.footage.selection import Selection
from lichtspiel.footage.track import follow_selections

WIDTH, HEIGHT, RADIUS = 208, 120, 16


def scene(at: float, post_at: float = 150) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A spotted ball at a place on a pale wall, behind a dark striped board, and where it can be seen."""
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    wall = 190 + 20 * np.sin(columns / 9) * np.cos(rows / 7)
    picture = np.stack([wall, wall, wall * 0.9], -1).astype(np.uint8)
    spots = np.sin((columns - at) / 2.5) * np.sin(rows / 2.5) > 0
    ball = np.hypot(columns - at, rows - 60) < RADIUS
    picture[ball & spots] = (210, 60, 40)
    picture[ball & ~spots] = (240, 180, 60)
    post = (abs(columns - post_at) < 22) & (abs(rows - 60) < 40)
    picture[post] = (40, 60, 110)
    picture[post & (np.sin((columns - post_at) / 3) * np.sin(rows / 4) > 0)] = (20, 90, 60)
    return cv2.GaussianBlur(picture, (3, 3), 0.8), ball & ~post


def test_an_object_that_was_hidden_is_found_again() -> None:
    shown = [scene(40 + 6 * number, 150 - 6 * number) for number in range(17)]
    box = (40 - RADIUS, 60 - RADIUS, 40 + RADIUS, 60 + RADIUS)
    found = follow_selections([frame for frame, _ in shown], 0, [Selection(box=box)])
    rights = []
    for number, (_, truth) in enumerate(shown):
        mask = found.masks(number)[0]
        if truth.sum() < 20:
            assert mask.sum() < 60, number
            continue
        rights.append(float((mask & truth).sum() / (mask | truth).sum()))
    assert min(rights[-3:]) > 0.8, rights
    assert np.mean(rights) > 0.75, rights


def test_a_remembered_shape_moves_on_and_is_corrected_by_what_is_seen() -> None:
    frame, truth = scene(40)
    memory = Memory(truth.astype(np.float32), lab_of(frame))
    still = np.eye(2, 3)
    moved = np.array([[1.0, 0, -8], [0, 1, 0]])
    memory.learn(moved, still, truth.astype(np.float32))
    assert np.allclose(memory.predicted(still), moved)
    camera = np.array([[1.0, 0, 5], [0, 1, 0]])
    assert np.allclose(memory.predicted(camera)[:, 2], [-3, 0])
    memory.move(memory.predicted(still))
    frame, truth = scene(53)  # 5 pixels farther than it was expected
    memory.look(lab_of(frame), np.zeros(truth.shape, bool))
    shape = memory.expected_shape()
    assert ((shape > 0.5) & truth).sum() / ((shape > 0.5) | truth).sum() > 0.9
    memory.refresh(truth, lab_of(frame))
    assert memory.since == 0
    assert np.array_equal(memory.expected_shape() > 0.5, truth)
