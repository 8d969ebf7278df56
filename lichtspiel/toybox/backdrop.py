"""The places of the toybox world at all times of day, painted procedurally, one still picture per clip.

Shapes are large and soft with little detail, because a small video autoencoder must be able to learn them. Every
place has a landmark that is recognizable at 64 pixels. Knows nothing of actors, weather or the camera's path, only
how much margin the camera needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lichtspiel.toybox import paint
from lichtspiel.toybox.paint import Canvas, Color, Image, Pixels
from lichtspiel.toybox.scene import Place, Time

HORIZON = 0.54


@dataclass(frozen=True, kw_only=True)
class Light:
    """One time of day: the sky from top to horizon, the clouds, and the color that falls on the ground."""

    sky: tuple[Color, Color]
    cloud: Color
    cover: float
    ground: Color


LIGHTS: dict[Time, Light] = {
    "day": Light(sky=((0.27, 0.57, 0.95), (0.80, 0.92, 1.0)), cloud=(1, 1, 1), cover=0.85, ground=(1, 1, 1)),
    "sunset": Light(
        sky=((0.44, 0.30, 0.60), (1.0, 0.66, 0.38)), cloud=(1.0, 0.72, 0.62), cover=0.6, ground=(0.94, 0.74, 0.68)
    ),
    "night": Light(
        sky=((0.07, 0.10, 0.30), (0.22, 0.29, 0.55)), cloud=(0.30, 0.36, 0.58), cover=0.5, ground=(0.33, 0.45, 0.82)
    ),
    "overcast": Light(
        sky=((0.55, 0.59, 0.64), (0.76, 0.79, 0.82)), cloud=(0.88, 0.90, 0.92), cover=0.9, ground=(0.78, 0.80, 0.84)
    ),
}

_GROUNDS: dict[Place, tuple[Color, Color]] = {
    "meadow": ((0.24, 0.58, 0.14), (0.46, 0.77, 0.24)),
    "desert": ((0.86, 0.66, 0.38), (0.97, 0.83, 0.57)),
    "snowfield": ((0.78, 0.86, 0.96), (0.97, 0.98, 1.0)),
    "beach": ((0.88, 0.78, 0.54), (0.98, 0.91, 0.72)),
    "road": ((0.27, 0.27, 0.30), (0.36, 0.36, 0.39)),
    "path": ((0.52, 0.36, 0.20), (0.68, 0.50, 0.30)),
    "autumn": ((0.62, 0.33, 0.10), (0.86, 0.56, 0.18)),
    "city": ((0.58, 0.57, 0.56), (0.70, 0.69, 0.67)),
    "sea": ((0.05, 0.30, 0.55), (0.32, 0.64, 0.82)),
}

_HILLS: dict[Place, tuple[Color, Color]] = {
    "meadow": ((0.50, 0.62, 0.76), (0.30, 0.55, 0.30)),
    "desert": ((0.86, 0.62, 0.44), (0.78, 0.52, 0.32)),
    "snowfield": ((0.72, 0.80, 0.92), (0.86, 0.91, 0.97)),
    "road": ((0.50, 0.62, 0.76), (0.32, 0.56, 0.30)),
    "path": ((0.52, 0.63, 0.74), (0.36, 0.56, 0.30)),
    "autumn": ((0.62, 0.56, 0.60), (0.70, 0.42, 0.18)),
}


def backdrop(place: Place, time: Time, canvas: Canvas, rng: np.random.Generator, *, stars: bool = True) -> Pixels:
    """Paint a place: RGB pixels of the canvas with its margin. The same generator state gives the same picture.

    With `stars` False a night sky has none, because falling snow would look much the same.
    """
    if place == "room":
        return _room(canvas, rng)
    if place == "underwater":
        return _underwater(canvas, rng)
    light = LIGHTS[time]
    image = _sky(light, time, canvas, rng)
    if place in _HILLS:
        _hills(image, place, light, canvas, rng)
    _ground(image, place, light, canvas, rng)
    pixels = paint.to_pixels(image)
    if time == "night" and stars:
        _stars(pixels, canvas, rng)
    _PROPS[place](pixels, canvas, light, rng)
    return pixels


def _lit(color: Color, light: Light, shade: float = 1.0) -> Color:
    red, green, blue = (c * g * shade for c, g in zip(color, light.ground, strict=True))
    return red, green, blue


def _sky(light: Light, time: Time, canvas: Canvas, rng: np.random.Generator) -> Image:
    size = (len(canvas.y), len(canvas.x))
    rows = paint.gradient(*light.sky, canvas.y / HORIZON)
    image = np.repeat(rows[:, None], size[1], axis=1)
    threshold, steepness = (0.42, 2.2) if time == "overcast" else (0.56, 3.2)
    alpha = np.clip((paint.noise(rng, size, (4, 2), 3) - threshold) * steepness, 0, 1) * light.cover
    image += (np.asarray(light.cloud, np.float32) - image) * alpha[..., None]
    x = float(rng.uniform(0.12, 0.88)) * canvas.aspect
    if time == "day":
        paint.glow(image, canvas, (x, 0.11), 0.20, (0.35, 0.30, 0.12))
        _disc(image, canvas, (x, 0.11), 0.055, (1.0, 0.96, 0.70))
    elif time == "sunset":
        paint.glow(image, canvas, (x, 0.42), 0.28, (0.45, 0.28, 0.02))
        _disc(image, canvas, (x, 0.42), 0.085, (1.0, 0.88, 0.55))
    elif time == "night":
        paint.glow(image, canvas, (x, 0.14), 0.22, (0.16, 0.18, 0.22))
        _disc(image, canvas, (x, 0.14), 0.065, (0.97, 0.96, 0.86))
    return image


def _disc(image: Image, canvas: Canvas, center: tuple[float, float], radius: float, color: Color) -> None:
    distance = np.hypot(canvas.x[None] - center[0], canvas.y[:, None] - center[1])
    alpha = np.clip((radius - distance) * canvas.unit + 0.5, 0, 1)[..., None]
    image += (np.asarray(color, np.float32) - image) * alpha


def _stars(pixels: Pixels, canvas: Canvas, rng: np.random.Generator) -> None:
    for x, y, size in rng.random((16, 3)):
        center = (float(x * 1.2 - 0.1) * canvas.aspect, float(y * 0.40 - 0.06))
        paint.ellipse(pixels, canvas, center, (0.006 + 0.006 * size,) * 2, (0.90, 0.92, 1.0))


def _hills(image: Image, place: Place, light: Light, canvas: Canvas, rng: np.random.Generator) -> None:
    columns = len(canvas.x)
    far = HORIZON - 0.03 - paint.ridge(rng, columns, 4, 3) * 0.20
    near = HORIZON + 0.01 - paint.ridge(rng, columns, 3, 2) * 0.11
    for line, color in zip((far, near), _HILLS[place], strict=True):
        # Lighter at the crest, so that neighboring hills can be told apart.
        depth = np.clip((canvas.y[:, None] - line[None]) / 0.2, 0, 1)
        lit = _lit(color, light)
        paint.cover_below(image, canvas, line, paint.gradient(_scaled(lit, 1.10), _scaled(lit, 0.86), depth))


def _scaled(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def _ground(image: Image, place: Place, light: Light, canvas: Canvas, rng: np.random.Generator) -> None:
    size = (len(canvas.y), len(canvas.x))
    cells = (10, 2) if place == "sea" else (5, 2)
    rows = paint.perspective(canvas, HORIZON)
    texture = paint.noise(rng, size, cells, 3)[rows]
    low, high = _GROUNDS[place]
    surface = paint.gradient(_lit(low, light), _lit(high, light), texture)
    if place in ("road", "path"):
        # The verge is grass; the road is drawn on top of it.
        low, high = _GROUNDS["meadow"]
        paint.cover_below(image, canvas, HORIZON, paint.gradient(_lit(low, light), _lit(high, light), texture))
        edge = 0.63 + (0 if place == "road" else 0.012) * np.sin(canvas.x * 9)
        paint.cover_below(image, canvas, np.asarray(edge, np.float32), surface)
        if place == "path":
            lower = 0.93 + 0.012 * np.sin(canvas.x * 8 + 2)
            grass = paint.gradient(_lit(low, light), _lit(high, light), texture)
            paint.cover_below(image, canvas, np.asarray(lower, np.float32), grass)
    elif place == "beach":
        _shore(image, surface, light, canvas, rng)
    elif place == "city":
        paint.cover_below(image, canvas, 0.60, surface)
    else:
        paint.cover_below(image, canvas, HORIZON, surface)


def _shore(image: Image, sand: Image, light: Light, canvas: Canvas, rng: np.random.Generator) -> None:
    depth = (canvas.y[:, None] - HORIZON + 0.06) / 0.18
    water = paint.gradient(_lit((0.08, 0.42, 0.70), light), _lit((0.42, 0.82, 0.84), light), depth)
    paint.cover_below(image, canvas, HORIZON - 0.06, water)
    line = 0.64 + 0.03 * (paint.ridge(rng, len(canvas.x), 3, 1) - 0.5)
    paint.cover_below(image, canvas, line, _lit((0.96, 0.98, 1.0), light))
    paint.cover_below(image, canvas, line + 0.022, sand)


def _places_across(canvas: Canvas, rng: np.random.Generator, count: int) -> list[float]:
    """Positions spread irregularly over the whole canvas, so that a pan always reveals something new."""
    spread = (np.arange(count) + rng.uniform(0.15, 0.85, count)) / count
    return [float(x) for x in (spread * 1.28 - 0.14) * canvas.aspect]


def _meadow(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    colors: tuple[Color, ...] = ((1, 1, 1), (1.0, 0.86, 0.25), (0.95, 0.45, 0.55))
    for x in _places_across(canvas, rng, 12):
        y = float(rng.uniform(0.62, 1.02))
        radius = 0.006 + 0.014 * (y - HORIZON)
        color = colors[int(rng.integers(3))]
        paint.ellipse(pixels, canvas, (x, y), (radius * 1.5, radius * 1.2), _lit(color, light, 0.97))
    for x in _places_across(canvas, rng, 2):
        _tree(pixels, canvas, (x, 0.57), 0.15, _lit((0.20, 0.50, 0.18), light))


def _tree(pixels: Pixels, canvas: Canvas, foot: tuple[float, float], height: float, leaf: Color) -> None:
    x, y = foot
    trunk = (leaf[0] * 0.3 + 0.12 * leaf[1] + 0.08, leaf[1] * 0.3 + 0.06, leaf[2] * 0.3 + 0.05)
    paint.rectangle(pixels, canvas, (x - height * 0.06, y - height * 0.5), (height * 0.12, height * 0.5), trunk)
    for dx, dy, r in ((-0.18, 0.55, 0.24), (0.18, 0.55, 0.24), (0.0, 0.75, 0.27)):
        paint.ellipse(pixels, canvas, (x + dx * height, y - dy * height), (r * height, r * height), leaf)
    bright = _scaled(leaf, 1.22)
    paint.ellipse(pixels, canvas, (x - 0.06 * height, y - 0.80 * height), (0.15 * height, 0.14 * height), bright)


def _desert(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    green = _lit((0.28, 0.52, 0.24), light)
    for x in _places_across(canvas, rng, 3):
        y, h = float(rng.uniform(0.57, 0.62)), float(rng.uniform(0.14, 0.20))
        side = 1 if rng.random() < 0.5 else -1
        paint.capsule(pixels, canvas, ((x, y), (x, y - h)), h * 0.11, green)
        for s, low in ((side, 0.40), (-side, 0.55)):
            elbow = (x + s * h * 0.28, y - h * low)
            paint.capsule(pixels, canvas, ((x, y - h * low), elbow), h * 0.075, green)
            paint.capsule(pixels, canvas, (elbow, (elbow[0], elbow[1] - h * 0.25)), h * 0.075, green)
    dune = _lit((0.99, 0.87, 0.63), light)
    x = float(rng.uniform(0.1, 0.9)) * canvas.aspect
    paint.ellipse(pixels, canvas, (x, 1.05), (0.55, 0.10), dune)


def _snowfield(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    green, white = _lit((0.28, 0.45, 0.42), light), _lit((0.96, 0.98, 1.0), light)
    for x in _places_across(canvas, rng, 5):
        y, h = float(rng.uniform(0.56, 0.60)), float(rng.uniform(0.13, 0.21))
        for low, top, half in ((0.0, 0.6, 0.26), (0.3, 0.82, 0.20), (0.58, 1.0, 0.14)):
            tip, left, right = (x, y - top * h), (x - half * h, y - low * h), (x + half * h, y - low * h)
            paint.polygon(pixels, canvas, (tip, left, right), green)
            cap = ((x - half * 0.45 * h, y - (low + top) / 2 * h), (x + half * 0.45 * h, y - (low + top) / 2 * h))
            paint.polygon(pixels, canvas, (tip, *cap), white)
    x = float(rng.uniform(0.1, 0.9)) * canvas.aspect
    paint.ellipse(pixels, canvas, (x, 1.06), (0.6, 0.10), white)


def _beach(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    bark, leaf = _lit((0.55, 0.38, 0.22), light), _lit((0.18, 0.55, 0.22), light)
    side = 1 if rng.random() < 0.5 else -1
    x = canvas.aspect * (0.5 + side * float(rng.uniform(0.34, 0.42)))
    top = (x - side * 0.07, 0.24)
    trunk = ((x - 0.022, 0.70), (x + 0.022, 0.70), (top[0] + 0.012, top[1]), (top[0] - 0.012, top[1]))
    paint.polygon(pixels, canvas, trunk, bark)
    for angle in np.radians((-165, -130, -50, -15, 20, 160)):
        tip = (top[0] + 0.17 * float(np.cos(angle)), top[1] + 0.12 * float(np.sin(angle)) + 0.05)
        middle = (top[0] + 0.10 * float(np.cos(angle)), top[1] + 0.12 * float(np.sin(angle)) - 0.02)
        paint.polygon(pixels, canvas, (top, middle, tip, (middle[0], middle[1] + 0.045)), leaf)


def _road(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    white, span = _lit((0.94, 0.93, 0.86), light), canvas.aspect * 1.28
    paint.rectangle(pixels, canvas, (-0.14 * canvas.aspect, 0.645), (span, 0.014), white)
    start = float(rng.uniform(0, 0.3))
    for index in range(int(span / 0.3) + 2):
        x = -0.14 * canvas.aspect - 0.3 + start + 0.3 * index
        paint.polygon(pixels, canvas, ((x, 0.86), (x + 0.15, 0.86), (x + 0.14, 0.89), (x - 0.01, 0.89)), white)


def _path(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    wood, span = _lit((0.62, 0.45, 0.28), light), canvas.aspect * 1.28
    left = -0.14 * canvas.aspect
    for y in (0.515, 0.565):
        paint.rectangle(pixels, canvas, (left, y), (span, 0.018), wood)
    start = float(rng.uniform(0, 0.2))
    for index in range(int(span / 0.2) + 1):
        paint.rectangle(pixels, canvas, (left + start + 0.2 * index, 0.48), (0.03, 0.14), _scaled(wood, 0.88))
    for x in _places_across(canvas, rng, 6):
        y, r = float(rng.uniform(0.70, 0.90)), float(rng.uniform(0.010, 0.018))
        paint.ellipse(pixels, canvas, (x, y), (r * 1.5, r), _lit((0.42, 0.30, 0.20), light))


def _autumn(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    leaves: tuple[Color, ...] = ((0.90, 0.45, 0.10), (0.80, 0.26, 0.12), (0.95, 0.66, 0.15))
    for x in _places_across(canvas, rng, 4):
        foot = (x, float(rng.uniform(0.56, 0.62)))
        color = leaves[int(rng.integers(3))]
        _tree(pixels, canvas, foot, float(rng.uniform(0.24, 0.32)), _lit(color, light, 0.92))
    for x in _places_across(canvas, rng, 10):
        y = float(rng.uniform(0.68, 1.0))
        color = leaves[int(rng.integers(3))]
        paint.ellipse(pixels, canvas, (x, y), (0.018, 0.009), _lit(color, light))


def _city(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    walls: tuple[Color, ...] = ((0.80, 0.48, 0.38), (0.88, 0.76, 0.55), (0.60, 0.66, 0.74), (0.72, 0.60, 0.66))
    night = light is LIGHTS["night"]
    pane = (1.0, 0.86, 0.45) if night else _lit((0.30, 0.44, 0.62), light)
    x, last = -0.14 * canvas.aspect - float(rng.uniform(0, 0.1)), -1
    while x < 1.14 * canvas.aspect:
        width, storeys = float(rng.uniform(0.17, 0.23)), int(rng.integers(3, 6))
        height = 0.085 * storeys + 0.035
        last = (last + int(rng.integers(1, 4))) % 4
        wall = _lit(walls[last], light)
        paint.rectangle(pixels, canvas, (x, 0.61 - height), (width, height), wall)
        paint.rectangle(pixels, canvas, (x, 0.61 - height), (width, 0.018), _scaled(wall, 0.75))
        step = width / 2
        dark = rng.random((storeys, 2)) < (0.3 if night else 0.0)
        for storey in range(storeys):
            for column in range(2):
                corner = (x + step * (column + 0.25), 0.61 - height + 0.038 + 0.085 * storey)
                color = _scaled(wall, 0.7) if dark[storey, column] else pane
                paint.rectangle(pixels, canvas, corner, (step * 0.5, 0.046), color)
        x += width
    kerb = _lit((0.42, 0.42, 0.43), light)
    paint.rectangle(pixels, canvas, (-0.14 * canvas.aspect, 0.61), (1.28 * canvas.aspect, 0.02), kerb)
    seam = _lit((0.53, 0.52, 0.51), light)
    for y in (0.70, 0.82, 0.97):
        paint.rectangle(pixels, canvas, (-0.14 * canvas.aspect, y), (1.28 * canvas.aspect, 0.010), seam)


def _sea(pixels: Pixels, canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    crest = _lit((0.62, 0.85, 0.94), light)
    for x in _places_across(canvas, rng, 12):
        depth = float(rng.random())
        y, half = HORIZON + 0.03 + depth * 0.46, 0.03 + 0.05 * depth
        paint.ellipse(pixels, canvas, (x, y), (half, 0.004 + 0.005 * depth), crest)


def _underwater(canvas: Canvas, rng: np.random.Generator) -> Pixels:
    size = (len(canvas.y), len(canvas.x))
    rows = paint.gradient((0.28, 0.72, 0.90), (0.05, 0.28, 0.58), canvas.y)
    image = np.repeat(rows[:, None], size[1], axis=1)
    phase, lean = rng.uniform(0, 6.28), rng.uniform(-0.6, 0.6)
    rays = np.sin((canvas.x[None] + lean * canvas.y[:, None]) * 13 + phase + 3 * paint.ridge(rng, size[1], 3, 1)[None])
    image += (np.clip(rays, 0, 1) ** 2 * 0.16 * np.clip(1 - canvas.y[:, None], 0, 1))[..., None]
    sand = paint.gradient((0.48, 0.52, 0.46), (0.70, 0.70, 0.54), paint.noise(rng, size, (6, 2), 2))
    paint.cover_below(image, canvas, 0.86 + 0.03 * (paint.ridge(rng, size[1], 3, 1) - 0.5), sand)
    pixels = paint.to_pixels(image)
    for x in _places_across(canvas, rng, 5):
        height = float(rng.uniform(0.12, 0.28))
        shade = float(rng.uniform(0.8, 1.1))
        for dx in (-0.02, 0.02):
            green = _scaled((0.12, 0.48, 0.30), shade)
            bend = float(rng.uniform(-0.03, 0.03))
            base, tip = (x + dx, 0.90), (x + dx + bend, 0.90 - height * float(rng.uniform(0.7, 1.0)))
            paint.capsule(pixels, canvas, (base, tip), 0.013, green)
    for x, y, size_ in rng.random((7, 3)):
        center = (float(x) * canvas.aspect, 0.1 + 0.6 * float(y))
        paint.ellipse(pixels, canvas, center, (0.008 + 0.008 * size_,) * 2, (0.62, 0.88, 0.97))
    return pixels


def _room(canvas: Canvas, rng: np.random.Generator) -> Pixels:
    walls: tuple[Color, ...] = ((0.86, 0.78, 0.66), (0.66, 0.76, 0.86), (0.74, 0.82, 0.70), (0.84, 0.70, 0.72))
    wall = _scaled(walls[int(rng.integers(4))], float(rng.uniform(0.92, 1.05)))
    size = (len(canvas.y), len(canvas.x))
    image = np.ones((*size, 3), np.float32) * np.asarray(wall, np.float32)
    if rng.random() < 0.5:
        image *= (1 - 0.07 * (np.sin(canvas.x * 2 * np.pi / 0.25) > 0))[None, :, None]
    plank = np.floor(canvas.x / 0.22).astype(np.intp) * 7919 % 13 / 13
    grain = 0.5 * paint.noise(rng, size, (2, 8), 2) + 0.5 * plank[None]
    paint.cover_below(image, canvas, 0.66, paint.gradient((0.50, 0.31, 0.17), (0.72, 0.50, 0.30), grain))
    image *= (1 - 0.18 * (2 * canvas.x / canvas.aspect - 1) ** 2)[None, :, None]
    pixels = paint.to_pixels(image)
    paint.rectangle(pixels, canvas, (-0.14 * canvas.aspect, 0.645), (1.28 * canvas.aspect, 0.03), (0.93, 0.91, 0.87))
    side = 1 if rng.random() < 0.5 else -1
    x = canvas.aspect * (0.5 + side * float(rng.uniform(0.22, 0.30)))
    paint.rectangle(pixels, canvas, (x - 0.14, 0.10), (0.28, 0.32), (0.95, 0.94, 0.90))
    for dx in (-0.115, 0.012):
        for y in (0.125, 0.265):
            paint.rectangle(pixels, canvas, (x + dx, y), (0.103, 0.128), (0.60, 0.82, 0.97))
    x = canvas.aspect * (0.5 - side * float(rng.uniform(0.22, 0.30)))
    frame = ((0.55, 0.34, 0.18), (0.95, 0.80, 0.45))[int(rng.integers(2))]
    paint.rectangle(pixels, canvas, (x - 0.09, 0.15), (0.18, 0.20), frame)
    picture = ((0.45, 0.70, 0.50), (0.90, 0.55, 0.40), (0.45, 0.50, 0.80))[int(rng.integers(3))]
    paint.rectangle(pixels, canvas, (x - 0.065, 0.175), (0.13, 0.15), picture)
    return pixels


_PROPS = {
    "meadow": _meadow,
    "desert": _desert,
    "snowfield": _snowfield,
    "beach": _beach,
    "road": _road,
    "path": _path,
    "autumn": _autumn,
    "city": _city,
    "sea": _sea,
}
