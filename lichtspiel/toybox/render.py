"""Draws a scene as a clip, as the camera sees it: the backdrop, the actors with their shadows, and the weather.

The same scene, seed, size and frame count give the same bytes, and the same seed shows the same event at every size.
Knows nothing of captions or of how scenes are chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.toybox import backdrop, catalog, motion, sprites
from lichtspiel.toybox.paint import Canvas, Pixels
from lichtspiel.toybox.scene import Scene, Time, Weather

_LOOPS = motion.SECONDS / 1.2
"""How often the sprite's animation plays in a clip."""

_TINTS: dict[Time, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "day": ((1, 1, 1), (0, 0, 0)),
    "sunset": ((1.0, 0.89, 0.80), (0.02, 0.0, 0.0)),
    "night": ((0.78, 0.80, 0.93), (0.05, 0.055, 0.10)),
    "overcast": ((0.92, 0.93, 0.95), (0, 0, 0)),
}
"""What the light of a time of day does to an actor: a factor and an offset for each color.

The lift keeps black animals apart from a dark ground at night.
"""

_WATER: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.90, 0.98, 1.0), (0.0, 0.01, 0.03))


@dataclass(frozen=True)
class Clip:
    """A rendered scene: RGB `frames` [T,H,W,3], and `masks` [T,H,W] that show which actor covers a pixel.

    A mask is 0 on the background, and 1 or 2 where the alpha of the first or second actor exceeds one half.
    """

    frames: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    scene: Scene
    seed: int


@dataclass(frozen=True)
class _Cast:
    """An actor ready to draw: animation, light, mirroring and pose, and a cache of its scaled pictures."""

    animation: tuple[Pixels, ...]
    light: NDArray[np.float64]
    mirrored: bool
    pose: motion.Pose
    offset: float
    scaled: dict[tuple[int, int], Pixels]

    def picture(self, t: float, height: float) -> Pixels:
        """The frame at time t, lit, mirrored and scaled down to between 1 and 1.41 times `height` pixels.

        A transparent border of one pixel keeps the edge smooth when the picture is warped.
        """
        frame = int((t * _LOOPS + self.offset) % 1 * len(self.animation)) % len(self.animation)
        source = self.animation[frame]
        level = max(math.floor(2 * math.log2(source.shape[0] / height)), 0)
        if (frame, level) not in self.scaled:
            rows, columns = (max(round(side / math.sqrt(2) ** level), 1) for side in source.shape[:2])
            picture = cv2.resize(source, (columns, rows), interpolation=cv2.INTER_AREA)
            picture = cv2.transform(cv2.flip(picture, 1) if self.mirrored else picture, self.light)
            self.scaled[frame, level] = np.asarray(cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT))
        return self.scaled[frame, level]


def render(scene: Scene, seed: int, *, width: int, height: int, frames: int) -> Clip:
    """Draw `scene` as `frames` pictures of `width` by `height`; `seed` decides whatever the scene does not specify."""
    assert min(width, height, frames) > 0, (width, height, frames)
    t = motion.clock(frames)
    canvas = Canvas(width, height, 0.0 if scene.camera == "still" else motion.MARGIN)
    view = motion.view(scene.camera, canvas.aspect, t)
    rng = np.random.default_rng((seed, 0))
    ground = backdrop.backdrop(scene.place, scene.time, canvas, rng, stars=scene.weather == "clear")
    if scene.weather != "clear":
        ground = _dull(ground, scene.weather)
    casts = _casts(scene, seed, canvas, view, t)
    pictures = np.empty((frames, height, width, 3), np.uint8)
    masks = np.zeros((frames, height, width), np.uint8)
    for index in range(frames):
        picture = pictures[index]
        picture[:] = _camera_frame(ground, canvas, float(view.zoom[index]), float(view.pan[index]))
        # The first actor is closest to the camera and therefore drawn last.
        for number in range(len(casts), 0, -1):
            _draw(picture, masks[index], casts[number - 1], index, float(t[index]), number)
    if scene.weather != "clear":
        _precipitate(pictures, scene.weather, np.random.default_rng((seed, 2)), t)
    return Clip(pictures, masks, scene, seed)


def _camera_frame(ground: Pixels, canvas: Canvas, zoom: float, pan: float) -> Pixels:
    """What the camera sees of the backdrop."""
    if canvas.margin == 0:
        return ground
    center_x = ground.shape[1] / 2 + pan * canvas.unit
    center_y = ground.shape[0] / 2
    # OpenCV measures from pixel centers, hence the halves.
    matrix = np.array(
        [
            [1 / zoom, 0, center_x - 0.5 - (canvas.width / 2 - 0.5) / zoom],
            [0, 1 / zoom, center_y - 0.5 - (canvas.height / 2 - 0.5) / zoom],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (canvas.width, canvas.height)
    return np.asarray(cv2.warpAffine(ground, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


@lru_cache(maxsize=256)
def _animation(subject: str) -> tuple[Pixels, ...]:
    """The subject's animation, cropped to its visible box (premultiplied 8-bit RGBA)."""
    sprite = sprites.sprite(subject)
    left, top, right, bottom = sprite.box
    rows, columns = sprite.frames.shape[1:3]
    across = slice(math.floor(left * columns), math.ceil(right * columns))
    down = slice(math.floor(top * rows), math.ceil(bottom * rows))
    return tuple(np.ascontiguousarray(frame[down, across]) for frame in sprite.frames)


def _casts(scene: Scene, seed: int, canvas: Canvas, view: motion.View, t: motion.Curve) -> list[_Cast]:
    rng = np.random.default_rng((seed, 1))
    casts = []
    for lane, actor in enumerate(scene.actors):
        animation = _animation(actor.subject)
        rows, columns = animation[0].shape[:2]
        stage = motion.Stage(aspect=canvas.aspect, place=scene.place, view=view, lane=lane, lanes=len(scene.actors))
        pose = motion.pose(actor, columns / rows, stage, t, rng)
        faces = catalog.SUBJECTS[actor.subject].faces
        mirrored = faces != "front" and actor.direction not in ("none", faces)
        casts.append(_Cast(animation, _tint(scene), mirrored, pose, float(rng.random()), {}))
    return casts


def _tint(scene: Scene) -> NDArray[np.float64]:
    """The light on an actor, as a matrix for premultiplied RGBA, so that the offset scales with the alpha."""
    factor, lift = _WATER if scene.place == "underwater" else _TINTS[scene.time]
    matrix = np.zeros((4, 4))
    matrix[range(3), range(3)] = factor
    matrix[:3, 3] = lift
    matrix[3, 3] = 1
    return matrix


def _draw(picture: Pixels, mask: Pixels, cast: _Cast, index: int, t: float, number: int) -> None:
    """Draw one actor and its shadow into a picture, changing only the pixels around it."""
    pose, unit = cast.pose, picture.shape[0]
    height = float(pose.height[index]) * unit
    if pose.shadow[index] > 0:
        radius = height * cast.animation[0].shape[1] / cast.animation[0].shape[0] * 0.5
        center = (float(pose.x[index]) * unit, float(pose.floor[index]) * unit)
        _darken(picture, center, radius, float(pose.shadow[index]))
    sprite = cast.picture(t, height)
    rows, columns = sprite.shape[:2]
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), float(pose.angle[index]), height / (rows - 2))
    matrix[0, 2] += float(pose.x[index]) * unit - columns / 2
    matrix[1, 2] += float(pose.y[index]) * unit - rows / 2
    corners = np.array([(0, 0), (columns, 0), (0, rows), (columns, rows)]) @ matrix[:, :2].T + matrix[:, 2]
    low = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, (picture.shape[1], picture.shape[0]))
    if (low >= high).any():
        return
    matrix[:, 2] -= low
    layer = cv2.warpAffine(sprite, matrix, (int(high[0] - low[0]), int(high[1] - low[1])), flags=cv2.INTER_LINEAR)
    if pose.afloat:
        depth = np.arange(low[1], high[1]) + 0.5 - float(pose.floor[index]) * unit
        layer = (layer * np.clip(0.5 - depth, 0, 1).astype(np.float32)[:, None, None]).astype(np.uint8)
    alpha = layer[..., 3]
    region = picture[low[1] : high[1], low[0] : high[0]]
    clear = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2BGR)
    region[:] = cv2.add(cv2.multiply(region, clear, scale=1 / 255), np.ascontiguousarray(layer[..., :3]))
    mask[low[1] : high[1], low[0] : high[0]][alpha > 127] = number


def _darken(picture: Pixels, center: tuple[float, float], radius: float, strength: float) -> None:
    """A soft elliptic contact shadow; lengths in pixels."""
    x, y = center
    flat = radius * 0.24
    x0, x1 = max(math.floor(x - radius * 1.5), 0), min(math.ceil(x + radius * 1.5), picture.shape[1])
    y0, y1 = max(math.floor(y - flat * 1.5), 0), min(math.ceil(y + flat * 1.5), picture.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    across = np.exp(-2 * ((np.arange(x0, x1, dtype=np.float32) + 0.5 - x) / radius) ** 2)
    down = np.exp(-2 * ((np.arange(y0, y1, dtype=np.float32) + 0.5 - y) / flat) ** 2)
    light = 1 - strength * down[:, None] * across[None]
    picture[y0:y1, x0:x1] = (picture[y0:y1, x0:x1] * light[..., None] + 0.5).astype(np.uint8)


_GREY: dict[Weather, float] = {"rain": 0.40, "snowfall": 0.25}


def _dull(ground: Pixels, weather: Weather) -> Pixels:
    """Make a place grayer and darker in rain or snow, which also makes drops and flakes stand out."""
    amount = _GREY[weather]
    gray = cv2.cvtColor(cv2.cvtColor(ground, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(ground, (1 - amount) * 0.84, gray, amount * 0.84, 0), np.uint8)


def _precipitate(pictures: Pixels, weather: Weather, rng: np.random.Generator, t: motion.Curve) -> None:
    """Draw rain or snow in front of everything; changes the pictures in place."""
    height, width = pictures.shape[1:3]
    aspect = width / height
    count = round((24 if weather == "rain" else 22) * aspect)
    drops = rng.random((count, 3))
    for picture, now in zip(pictures, t, strict=True):
        layer = np.zeros((height, width), np.uint8)
        if weather == "rain":
            _streaks(layer, drops, float(now), aspect)
        else:
            _flakes(layer, drops, float(now), aspect)
        color = (212, 226, 244) if weather == "rain" else (255, 255, 255)
        _veil(picture, layer, color, 0.75 if weather == "rain" else 0.9)


_SHIFT = 4
"""Fraction bits of OpenCV's fixed-point coordinates."""


def _fixed(value: float) -> int:
    return round(value * (1 << _SHIFT))


def _streaks(layer: Pixels, drops: NDArray[np.float64], t: float, aspect: float) -> None:
    unit = layer.shape[0]
    thickness = max(round(unit * 0.018), 1)
    for x, y, speed in drops:
        # A drop that leaves at the bottom reenters far enough above the top that it does not suddenly appear.
        fall = (y + t * (1.5 + 0.3 * speed)) % 1.2 - 0.1
        left = (x * 1.2 * aspect) - 0.14 * fall
        ends = (_fixed((left - 0.012) * unit), _fixed((fall + 0.085) * unit))
        cv2.line(layer, (_fixed(left * unit), _fixed(fall * unit)), ends, 255, thickness, cv2.LINE_AA, _SHIFT)


def _flakes(layer: Pixels, drops: NDArray[np.float64], t: float, aspect: float) -> None:
    unit = layer.shape[0]
    for x, y, size in drops:
        fall = (y + t * (0.42 + 0.16 * size)) % 1.1 - 0.05
        left = x * aspect + 0.025 * math.sin(2 * math.pi * (t + 7 * x))
        center = (_fixed(left * unit), _fixed(fall * unit))
        cv2.circle(layer, center, _fixed((0.009 + 0.008 * size) * unit), 255, -1, cv2.LINE_AA, _SHIFT)


def _veil(picture: Pixels, layer: Pixels, color: tuple[int, int, int], opacity: float) -> None:
    """Blend one color over a picture, using the brightness of the layer as opacity."""
    alpha = cv2.cvtColor(layer, cv2.COLOR_GRAY2BGR)
    background = cv2.multiply(picture, cv2.bitwise_not(cv2.convertScaleAbs(alpha, alpha=opacity)), scale=1 / 255)
    light = cv2.multiply(alpha, np.array((*color, 0), np.float64), scale=opacity / 255)
    picture[:] = cv2.add(background, light)
