"""What the renderer promises: the same bytes for the same seed, and a picture that shows what the scene says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from lichtspiel.toybox.catalog import SUBJECTS
from lichtspiel.toybox.render import Clip, render
from lichtspiel.toybox.sample import FULL, sample
from lichtspiel.toybox.scene import (
    ACTIONS,
    CAMERAS,
    INDOORS,
    MOVING,
    PLACES,
    TIMES,
    Action,
    Actor,
    Camera,
    Direction,
    Place,
    Scene,
    Size,
    Weather,
)

ROOMS: dict[Action, Place] = {"fly": "meadow", "swim": "underwater", "sail": "sea", "fall": "room", "bounce": "room"}


def actor(subject: str, action: Action, direction: Direction = "none", size: Size = "medium") -> Actor:
    return Actor(subject=subject, size=size, action=action, direction=direction)


def stage(*actors: Actor, place: Place = "meadow", camera: Camera = "still", weather: Weather = "clear") -> Scene:
    return Scene(actors=actors, place=place, time="day", weather=weather, camera=camera)


def draw(scene: Scene, seed: int = 3, size: int = 64, frames: int = 9) -> Clip:
    return render(scene, seed, width=size, height=size, frames=frames)


def centroids(clip: Clip, number: int = 1) -> np.ndarray:
    """The mean x and y of an actor in every frame."""
    return np.array([np.argwhere(mask == number)[:, ::-1].mean(0) for mask in clip.masks])


def areas(clip: Clip) -> np.ndarray:
    return (clip.masks == 1).sum((1, 2))


def fingerprint(clip: Clip) -> str:
    return hashlib.sha256(clip.frames.tobytes() + clip.masks.tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    scene = sample(5, FULL)
    assert fingerprint(draw(scene)) == fingerprint(draw(scene))
    assert fingerprint(draw(scene)) != fingerprint(draw(scene, seed=4))


def test_the_same_seed_gives_the_same_bytes_in_other_processes() -> None:
    code = (
        "import hashlib; from lichtspiel.toybox.render import render;"
        "from lichtspiel.toybox.sample import FULL, sample;"
        "clips = [render(sample(s, FULL), s, width=48, height=48, frames=5) for s in range(12)];"
        "print(hashlib.sha256(b''.join(c.frames.tobytes() + c.masks.tobytes() for c in clips)).hexdigest())"
    )
    command = [sys.executable, "-c", code]
    seen = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(seen) == 1


@pytest.mark.parametrize(("width", "height", "frames"), [(64, 64, 1), (96, 64, 5), (40, 72, 2), (8, 8, 17)])
@pytest.mark.parametrize("camera", ["still", "zoom-out", "pan-left"])
def test_size_and_frame_count_are_respected(width: int, height: int, frames: int, camera: Camera) -> None:
    scene = stage(actor("cat", "walk", "left"), camera=camera, weather="rain")
    clip = render(scene, 1, width=width, height=height, frames=frames)
    assert clip.frames.shape == (frames, height, width, 3)
    assert clip.masks.shape == (frames, height, width)
    assert clip.frames.dtype == clip.masks.dtype == np.uint8
    assert (clip.scene, clip.seed) == (scene, 1)


def test_a_seed_shows_the_same_event_at_every_size() -> None:
    scene = stage(actor("elephant", "walk", "right"), camera="zoom-in")
    small, large = draw(scene, size=64), draw(scene, size=128)
    assert np.abs(centroids(small) - centroids(large) / 2).max() < 1
    shrunk = large.frames.reshape(9, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(shrunk - small.frames).mean() < 6


def test_a_clip_is_the_same_event_whatever_the_frame_count() -> None:
    scene = stage(actor("taxi", "drive", "left"), place="road")
    few, many = draw(scene, frames=5), draw(scene, frames=17)
    assert np.array_equal(few.frames, many.frames[::4])


@pytest.mark.parametrize("action", sorted(MOVING))
@pytest.mark.parametrize("subject", ["cat", "airplane", "penguin"])
@pytest.mark.parametrize("size", get_args(Size))
def test_movers_cross_the_frame_in_their_direction(action: Action, subject: str, size: Size) -> None:
    assert [SUBJECTS[key].faces for key in ("cat", "airplane", "penguin")] == ["left", "right", "front"]
    for direction, sign in (("left", -1), ("right", 1)):
        clip = draw(stage(actor(subject, action, direction, size), place=ROOMS.get(action, "meadow")))
        x = centroids(clip)[:, 0] * sign
        assert 0.28 * 64 < x[-1] - x[0] < 0.48 * 64
        assert (np.diff(x) > -2).all()  # some drawings sway by themselves
        assert not clip.masks[[0, -1]][:, :, [0, -1]].any()


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("subject", ["bus", "giraffe"])
def test_movers_stay_in_the_frame_under_every_camera(camera: Camera, subject: str) -> None:
    for seed in range(6):
        clip = draw(stage(actor(subject, "walk", "left", "big"), camera=camera), seed)
        x = centroids(clip)[:, 0]
        assert x[0] - x[-1] > 0.28 * 64
        assert not clip.masks[[0, -1]][:, :, [0, -1]].any()


def test_actors_look_where_they_go() -> None:
    for subject in ("cat", "airplane"):
        left, right = (draw(stage(actor(subject, "hop", way))) for way in ("left", "right"))
        # The same event mirrored: the actor's colors are the same from the other side.
        assert np.array_equal(left.masks[..., ::-1], right.masks)
        seen = left.masks == 1
        difference = np.abs(left.frames.astype(int) - right.frames[:, :, ::-1].astype(int)).mean(3)
        assert difference[seen].mean() < 3
    front = [draw(stage(actor("pumpkin", "hop", way), place="room")) for way in ("left", "right")]
    assert not np.array_equal(front[0].masks[..., ::-1], front[1].masks)


def test_only_a_drawing_that_looks_the_other_way_is_mirrored() -> None:
    for subject, way, mirrored in (("cat", "left", False), ("cat", "right", True), ("airplane", "right", False)):
        standing = draw(stage(actor(subject, "stand")), frames=1).masks[0]
        hopping = draw(stage(actor(subject, "hop", way)), frames=1).masks[0]
        same = overlap(standing, hopping)
        turned = overlap(standing, hopping[:, ::-1])
        assert (turned > same) == mirrored


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """How well two masks agree when their boxes are laid over each other."""
    boxes = []
    for mask in (first, second):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 0
        boxes.append(np.pad(box, ((0, 64 - box.shape[0]), (0, 64 - box.shape[1]))))
    return float((boxes[0] & boxes[1]).sum() / (boxes[0] | boxes[1]).sum())


@pytest.mark.parametrize("place", [place for place in PLACES if place not in INDOORS])
@pytest.mark.parametrize("subject", ["cat", "gorilla", "skunk", "elephant"])
def test_nights_are_dark_but_readable(place: Place, subject: str) -> None:
    day = stage(actor(subject, "stand", size="big"), place=place)
    night = draw(replace(day, time="night"), frames=1)
    luminance = night.frames[0] @ np.array([0.299, 0.587, 0.114])
    seen = night.masks[0] == 1
    assert luminance[seen].mean() > 50
    assert luminance[~seen].mean() > 30
    assert luminance.mean() < draw(day, frames=1).frames[0].mean()
    # The outline can be found: actor and surroundings differ in color.
    apart = night.frames[0][seen].mean(0) - night.frames[0][40:][~seen[40:]].mean(0)
    assert np.abs(apart).max() > 15


def test_growing_and_shrinking_change_the_size() -> None:
    grown = areas(draw(stage(actor("zebra", "grow"))))
    assert grown[-1] > 3.5 * grown[0]
    shrunk = areas(draw(stage(actor("zebra", "shrink"))))
    assert shrunk[0] > 3.5 * shrunk[-1]


@pytest.mark.parametrize("action", ["stand", "drive"])
@pytest.mark.parametrize("subject", ["cat", "bus", "giraffe", "octopus", "motorboat", "rocket"])
def test_sizes_are_told_apart(subject: str, action: Action) -> None:
    way: Direction = "left" if action in MOVING else "none"
    sizes = [areas(draw(stage(actor(subject, action, way, size)))).mean() for size in get_args(Size)]
    assert sizes[0] * 1.5 < sizes[1]
    assert sizes[1] * 1.5 < sizes[2]


def test_vertical_actions() -> None:
    y = centroids(draw(stage(actor("cow", "fall"), place="room"), frames=33))[:, 1]
    assert y[-1] - y[0] > 20
    assert y[14:20].max() > y[20:28].min() + 2  # the rebound
    y = centroids(draw(stage(actor("cow", "bounce"), place="room"), frames=33))[:, 1]
    rising = np.diff(y) < 0
    assert (rising[1:] & ~rising[:-1]).sum() == 2
    x, y = centroids(draw(stage(actor("cow", "spin"), place="room"), frames=33)).T
    assert np.ptp(x) < 8
    y = centroids(draw(stage(actor("cow", "stand")), frames=33))[:, 1]
    assert np.ptp(y) < 4


def test_a_plane_flies_level() -> None:
    clip = draw(stage(actor("rocket", "fly", "right", "big")), size=128)
    for mask in clip.masks:
        y, x = np.nonzero(mask)
        spread = np.cov(x, y)
        assert abs(np.degrees(0.5 * np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1]))) < 8


def test_a_still_camera_keeps_the_background() -> None:
    clip = draw(stage(actor("cat", "hop", "left")), size=96)
    touched = (clip.masks > 0).any(0)
    changed = (clip.frames != clip.frames[0]).any((0, 3))
    assert (changed & ~touched).mean() < 0.20  # the shadow and the soft edge
    assert not changed[:20].any()


@pytest.mark.parametrize("camera", [camera for camera in CAMERAS if camera != "still"])
@pytest.mark.parametrize("place", PLACES)
def test_a_moving_camera_changes_the_border(camera: Camera, place: Place) -> None:
    clip = draw(stage(actor("cat", "stand"), place=place, camera=camera))
    edge = np.concatenate((clip.frames[:, :2], clip.frames[:, -2:]), 1).astype(int)
    assert np.abs(edge[0] - edge[-1]).mean() > 1


def test_the_camera_moves_the_world_the_other_way() -> None:
    for camera, sign in (("pan-right", -1), ("pan-left", 1)):
        x = centroids(draw(stage(actor("pumpkin", "stand"), camera=camera)))[:, 0]
        assert (x[-1] - x[0]) * sign > 0.15 * 64
    grown = areas(draw(stage(actor("pumpkin", "stand"), camera="zoom-in")))
    assert grown[-1] / grown[0] == pytest.approx(1.35**2, rel=0.2)
    shrunk = areas(draw(stage(actor("pumpkin", "stand"), camera="zoom-out")))
    assert grown[0] < grown[-1]
    assert shrunk[0] / shrunk[-1] == pytest.approx(1.35**2, rel=0.2)


@pytest.mark.parametrize("weather", ["rain", "snowfall"])
def test_weather_falls(weather: Weather) -> None:
    clear = draw(stage(actor("cat", "stand")), size=128)
    wet = draw(stage(actor("cat", "stand"), weather=weather), size=128)
    sky = wet.frames[:, :40].astype(int)
    assert (np.abs(np.diff(sky, axis=0)).max(3) > 12).mean((1, 2)).min() > 0.01
    assert not (clear.frames[1:, :40] != clear.frames[:-1, :40]).any()
    assert wet.frames.mean() < clear.frames.mean()


def test_two_actors_cross_and_the_first_is_in_front() -> None:
    clip = draw(stage(actor("cat", "walk", "left"), actor("elephant", "walk", "right")), frames=17)
    assert set(np.unique(clip.masks)) == {0, 1, 2}
    first, second = centroids(clip, 1)[:, 0], centroids(clip, 2)[:, 0]
    assert first[0] > second[0]
    assert first[-1] < second[-1]
    alone = draw(stage(actor("cat", "walk", "left")), frames=17)
    ratio = areas(clip) / areas(alone)
    assert np.ptp(ratio) < 0.15  # nothing covers it


@pytest.mark.parametrize("place", PLACES)
def test_every_place_and_time_looks_its_own(place: Place) -> None:
    seen = set()
    for time in ("day",) if place in INDOORS else TIMES:
        scene = replace(stage(actor("cat", "stand"), place=place), time=time)
        clip = draw(scene, frames=1, size=32)
        assert clip.frames.std() > 15
        seen.add(fingerprint(clip))
    assert len(seen) == (1 if place in INDOORS else len(TIMES))


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_moves_smoothly(action: Action) -> None:
    direction: Direction = "left" if action in MOVING else "none"
    clip = draw(stage(actor("pumpkin", action, direction), place=ROOMS.get(action, "meadow")), frames=33)
    steps = np.linalg.norm(np.diff(centroids(clip), axis=0), axis=1)
    assert steps.max() < 0.10 * 64
    assert areas(clip).min() > 40
