"""Follow objects through a clip: a mask for each frame, and how sure it is.

Every pixel of a new frame is explained in one of three ways: by the object, as its color distribution and the pixels
that optical flow carries over say; by the background, as a picture of it says that is collected wherever nothing
covers it and moves with the camera; or by something else that moves. What the object hides behind something else is
remembered, moves on with it and is looked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.backdrop import Backdrop, Background
from lichtspiel.footage.memory import Memory
from lichtspiel.footage.motion import Flows, Motion, carry, surroundings
from lichtspiel.footage.pixels import Bytes, Floats, Mask, gray_of, lab_of, pull, shrunk, widened
from lichtspiel.footage.refine import Rough, refined
from lichtspiel.footage.segment import Segmenter, box_of, color_bins, grab, histogram, relax, tidy
from lichtspiel.footage.selection import Selection
from lichtspiel.footage.shapes import distance, reaching, united
from lichtspiel.frames import Frame

__all__ = ["LIMIT", "Shot", "Track", "confidence", "features", "follow", "follow_selections"]

_FLOOR, _NEVER = 2e-5, -8.0
WORKING_SIDE = 416
"""The longest side, in pixels, at which frames are worked on."""

LIMIT = 0.5
"""The confidence below which a frame's mask should be looked at."""

_LOST = 0.25
"""The confidence below which the object counts as lost: of clips that are right throughout, one in twenty is."""

_COVERED, _WHOLE = 0.08, 0.05
"""The share of an object above which it counts as covered, and below which it counts as whole."""

_TIE = 0.05
"""By how much more of an object a guess must explain than what was measured to be taken instead."""

_RECOGNIZED = 0.6
"""The share of an object that is recognized after a motion that was measured well; of less, others are tried."""

_AGAIN = 1.0
"""The log odds of a place where the selected object, moved as it moved since, shows its colors and no background."""

_BETTER = 0.15
"""By how much more of an object its motion as a whole must show than flow does, for the flow not to be trusted."""

_EVERYWHERE = (slice(None), slice(None))

_MARGIN = 20
"""How far around an object what may cover it is looked for, in pixels."""

_APART, _RARE, _GONE = 28.0, 1e-3, 4.0
"""Where something else is seen: how far its color is from the object's there, how rare it is in all of the object, and
what that takes off the log odds."""

_BIAS = -6.87
_WEIGHTS = {"flow": 0.27, "color": 3.96, "overlap": 3.13, "hidden": -1.33}
_RISE = 0.05
"""By how much the confidence rises at most from frame to frame: what was wrong in a mask is carried on with it."""


@dataclass(frozen=True)
class Shot:
    """One object in one frame: its visible mask [h, w] and what the confidence is computed from."""

    mask: Mask
    facts: dict[str, float] = field(default_factory=dict)


@dataclass
class _Object:
    """What is remembered of one object, in the coordinates of the last frame.

    `mask` is its visible part, `hidden` the part behind something else, `template` the colors of both. `memory` is how
    it was last seen whole, `anchor` how it was selected. `seen` says whether its motion was measured in the frame at
    hand, `alone` whether nothing else that moves is near.
    """

    mask: Floats
    hidden: Floats
    template: Floats
    colors: Floats
    first_colors: Floats
    first_area: float
    moved: NDArray[np.float64]
    memory: Memory
    anchor: Memory
    seen: bool = True
    alone: bool = True

    def again(self, lab: Bytes) -> Floats:
        """1 where it is seen as on the selected frame, [h, w]; nowhere if it may be something else beside it."""
        return self.anchor.again(lab) if self.alone else np.zeros_like(self.mask)


class _Scene:
    """The state that all objects of a clip share while it is walked through in one direction."""

    def __init__(
        self, frames: Sequence[Frame], backdrop: Backdrop, start: int, masks: Sequence[Mask],
        motions: Mapping[tuple[int, int], Motion],
    ) -> None:  # fmt: skip
        self.frames, self.backdrop, self.number, self.motions = frames, backdrop, start, motions
        height, width, _ = frames[start].shape
        self.flows = Flows(width, height)
        self.gray = self.last = gray_of(frames[start])
        self.lab = lab_of(frames[start])
        bins = color_bins(self.lab)
        self.objects = [self._object(mask, bins) for mask in masks]
        self.never = self._never_uncovered(masks)
        self.others: Floats = np.zeros((height, width), np.float32)
        self.other_colors: Floats = np.zeros(4096, np.float32)
        colors, known = self.backdrop.of(start)
        self.background = Background(colors, known * (self.never < 0.5))
        self._look_around(self.lab, masks)

    def _never_uncovered(self, masks: Sequence[Mask]) -> Floats:
        """Where the background that was found is the object itself, because it never left this place."""
        lab, _ = self.backdrop.of(self.number)
        alike = np.abs(lab - self.lab).max(-1) < 10
        covered = np.zeros(alike.shape, bool)
        for mask in masks:
            covered |= mask
        return widened(covered & alike, 3).astype(np.float32)

    def _object(self, mask: Mask, bins: NDArray[np.int32]) -> _Object:
        colors = histogram(bins, mask)
        solid = mask.astype(np.float32)
        return _Object(
            solid, np.zeros_like(solid), self.lab.astype(np.float32), colors, colors, float(mask.sum()), np.eye(2, 3),
            Memory(solid, self.lab), Memory(solid, self.lab),
        )  # fmt: skip

    def step(self, number: int) -> list[Shot]:
        """Go on to the next frame."""
        frame, camera = self.frames[number], self.backdrop.camera(number, self.number)
        gray, lab = gray_of(frame), lab_of(frame)
        self.last, self.gray = self.gray, gray
        motion = self.motions.get((number, self.number)) or self.flows.motion(self.last, gray, camera)
        self.never = carry(self.never, camera)
        colors, known = self.backdrop.of(number)
        covered = np.maximum.reduce([self.others, *(thing.mask for thing in self.objects)])
        open_ground = ~widened(carry(covered, camera) > 0.3, 25)
        self.background = Background(colors, known * (self.never < 0.5)).fitted(lab, open_ground)
        before = pull(self.lab, motion.source)
        masks = [pull(thing.mask, motion.source) for thing in self.objects]
        others = pull(self.others, motion.source)
        shots = []
        for index, thing in enumerate(self.objects):
            rivals = np.maximum.reduce([others, *(mask for number, mask in enumerate(masks) if number != index)])
            shots.append(self._place(thing, masks[index], rivals, motion, lab, before))
        self._look_around(lab, [shot.mask for shot in shots])
        self.lab, self.number = lab, number
        return shots

    def _place(
        self, thing: _Object, carried: Floats, rivals: Floats, motion: Motion, lab: Bytes, before: Floats
    ) -> Shot:
        """Find one object in the new frame."""
        moved, agree = self._way(thing, carried, motion, lab)
        hidden = carry(thing.hidden, moved)
        firm = carry(thing.mask, moved)
        seen, motion = motion, self._checked(thing, motion, (carried, firm, before), lab)
        carried = np.where(motion.trusted, carried, firm)
        prior = np.maximum(carried, hidden)
        rigid = carry(thing.template, moved)
        template = np.where(((hidden > 0.5) | ~motion.trusted)[..., None], rigid, before)
        expected, colors = thing.memory.expected()
        gone = self._gone(thing, (expected, colors, rivals), seen, lab)
        if thing.memory.covered > _COVERED:
            hidden = expected * (carried < 0.5)
            prior, template = expected, colors
            firm = expected
        where, reach = surroundings(prior, motion)
        height, width = prior.shape
        near = (rivals > 0.3) & widened(prior > 0.5, 2 * _MARGIN + 1)
        thing.alone = thing.memory.covered < _WHOLE and near.sum() < 0.03 * (prior > 0.5).sum()
        mask = np.zeros((height, width), bool)
        if where is None:
            thing.mask = thing.hidden = np.zeros_like(prior)
            thing.memory.covered = 1.0
            return Shot(mask, {"area": 0.0})
        odds, facts = self._odds(
            thing,
            where,
            reach,
            (prior, hidden, rivals, template, np.maximum(firm, hidden), gone, thing.again(lab)),
            motion,
            lab,
            agree,
        )
        mask[where] = united(tidy(odds > 0), firm[where], motion.against(moved)[where], motion.between(moved)[where])
        crop = lab[where]
        shown = histogram(color_bins(crop), mask[where])
        facts["color"] = float(np.sqrt(shown * thing.first_colors).sum())
        facts["area"] = float(mask.sum()) / thing.first_area
        union = float((mask | (prior > 0.5)).sum())
        facts["overlap"] = float((mask & (prior > 0.5)).sum()) / max(union, 1)
        if mask.sum() > 12:
            thing.colors = 0.7 * thing.colors + 0.1 * shown + 0.2 * thing.first_colors
        covered = self._covered(thing, mask, expected, gone, lab)
        thing.template = np.where(mask[..., None], lab.astype(np.float32), template)
        thing.hidden, thing.mask = covered, mask.astype(np.float32)
        facts["hidden"] = float(covered.sum()) / max(float(covered.sum() + mask.sum()), 1)
        return Shot(mask, facts)

    def _checked(self, thing: _Object, motion: Motion, maps: tuple[Floats, Floats, Floats], lab: Bytes) -> Motion:
        """Do not trust the flow around an object that its motion as a whole explains far better."""
        carried, firm, before = maps
        apart = lab - before
        alike = (np.einsum("hwc,hwc->hw", apart, apart) < _APART**2) & (carried > 0.5) & motion.trusted
        if thing.memory.recognized(lab, np.eye(2, 3)) < float(alike.sum()) / max(float(thing.mask.sum()), 1) + _BETTER:
            return motion
        near = widened((carried > 0.5) | (firm > 0.5), 15)
        return replace(motion, trusted=motion.trusted & ~near)

    def _way(self, thing: _Object, carried: Floats, motion: Motion, lab: Bytes) -> tuple[NDArray[np.float64], float]:
        """How the object moved: from its new places to its old ones, and how sure that is."""
        memory = thing.memory
        moved: NDArray[np.float64] | None = None
        agree, least = 0.0, (0.3 if memory.covered <= _COVERED else 0.6)
        if memory.covered < 0.7:
            moved, agree = self._measured(thing, carried, motion, lab)
        hides, guess = memory.covered > _COVERED, memory.predicted(motion.camera)
        known = memory.recognized(lab, guess) if memory.ways else 0.0
        # Corners of what comes in front of an object are measured, too, but do not carry its colors along.
        thing.seen = moved is not None and agree >= least and memory.recognized(lab, moved) > known - _TIE
        if moved is None or not thing.seen:
            thing.seen = known > 0.5
            moved, agree = guess if hides or thing.seen else thing.moved, 0.5 * hides
        elif memory.covered < 0.03:
            memory.learn(moved, motion.camera, carried)
        before = memory.pose
        memory.move(moved)
        if memory.covered > _COVERED:
            plain, _ = self.background.likeness(lab.astype(np.float32), _EVERYWHERE)
            memory.look(lab, (plain > 0.5) & (self.background.known > 0.7))
            moved = (np.linalg.inv(before) @ memory.pose)[:2]
        thing.moved = moved
        thing.anchor.move(moved)
        return moved, agree

    def _measured(
        self, thing: _Object, carried: Floats, motion: Motion, lab: Bytes
    ) -> tuple[NDArray[np.float64] | None, float]:
        """The motion of an object by its corners, near where flow carries it; where that does not show its colors, near
        where it would go on as before, and where its colors are seen."""
        moved, agree = self.flows.object_motion(self.last, self.gray, carried > 0.5)
        best = thing.memory.recognized(lab, moved) if moved is not None else 0.0
        if best > _RECOGNIZED or thing.memory.covered > _COVERED:
            return moved, agree
        plain, _ = self.background.likeness(lab.astype(np.float32), _EVERYWHERE)
        ground = (plain > 0.5) & (self.background.known > 0.7)
        for guess in (thing.moved, thing.memory.leap(lab, ground, thing.memory.predicted(motion.camera))):
            where = carry(thing.mask, guess) > 0.5
            other, share = self.flows.object_motion(self.last, self.gray, where, guess)
            if other is None:
                other, share = guess, 0.0
            seen = thing.memory.recognized(lab, other)
            if (plainly := thing.memory.recognized(lab, guess)) > seen:
                other, seen, share = guess, plainly, 0.5 * plainly
            if seen > best + _TIE:
                moved, agree, best = other, max(share, 0.5 * seen), seen
        return moved, agree

    def _gone(self, thing: _Object, maps: tuple[Floats, Floats, Floats], motion: Motion, lab: Bytes) -> Floats:
        """1 where an object is expected and something is seen that is in front of it: not its colors there, and
        either what moves by itself or neither any of its colors nor the background, which an object leaves free when it
        turns or leaps."""
        expected, colors, rivals = maps
        gone = np.zeros_like(expected)
        if not thing.seen and thing.memory.covered <= _COVERED:  # it may be elsewhere as well
            return gone
        if (box := box_of(expected > 0.5)) is None:
            return gone
        left, top, right, bottom = box
        height, width = expected.shape
        where = (
            slice(max(top - _MARGIN, 0), min(bottom + _MARGIN, height)),
            slice(max(left - _MARGIN, 0), min(right + _MARGIN, width)),
        )
        difference = cv2.blur(lab[where].astype(np.float32), (5, 5)) - cv2.blur(colors[where], (5, 5))
        apart = np.einsum("hwc,hwc->hw", difference, difference) > _APART**2
        bins = color_bins(lab[where])
        strange = (thing.first_colors[bins] < _RARE) & (thing.colors[bins] < _RARE)
        plain, shaded = self.background.likeness(lab[where].astype(np.float32), where)
        strange &= (self.background.known[where] > 0.7) & (np.maximum(plain, shaded) < 0.1)
        inside = expected[where] > 0.5
        foreign = motion.trusted & (motion.independent > 1.5) & (motion.against(thing.moved) > 2.0)
        others = reaching(foreign[where] & (apart | ~inside), inside)
        found = inside & apart & (strange | others | (rivals[where] > 0.3))
        gone[where] = cv2.morphologyEx(found.astype(np.float32), cv2.MORPH_OPEN, np.ones((5, 5)))
        return gone

    def _covered(self, thing: _Object, mask: Mask, expected: Floats, gone: Floats, lab: Bytes) -> Floats:
        """The part of an object that something else hides; where nothing does, what is seen is kept in memory."""
        memory = thing.memory
        whole = max(float((expected > 0.5).sum()), 1.0)
        memory.covered = float(gone.sum()) / whole
        if memory.covered < _WHOLE and 0.7 < mask.sum() / whole < 1.4:
            memory.refresh(mask, lab)
        return expected * gone * ~mask

    def _odds(
        self,
        thing: _Object,
        where: tuple[slice, slice],
        reach: float,
        maps: tuple[Floats, ...],
        motion: Motion,
        lab: Bytes,
        agree: float,
    ) -> tuple[Floats, dict[str, float]]:
        prior, hidden, rivals, template, firm, gone, again = (each[where] for each in maps)
        crop, trusted = lab[where], motion.trusted[where]
        colors, bins = crop.astype(np.float32), color_bins(crop)
        inside = (prior > 0.5).astype(np.uint8)
        depth, away = distance(inside), distance(1 - inside)
        stiff = (firm > 0.5).astype(np.uint8)
        share = 0.5 * agree
        place = (1 - share) * (depth - away) / np.where(trusted, 2.0, reach)
        place = np.clip(place + share * (distance(stiff) - distance(1 - stiff)) / 2, -3, 3)
        place = np.where((hidden > 0.5), np.clip(place, -1, 0.5), place)
        difference = colors - template
        alike = np.exp(-np.einsum("hwc,hwc->hw", difference, difference) / 288)
        own = thing.colors[bins] + _FLOOR + 0.02 * alike * (prior > 0.5)
        ring = (away > 2) & (away < 2 * reach + 6)
        ground = 0.5 * (histogram(bins, ring & (rivals < 0.5)) + self.ground_colors)[bins] + _FLOOR
        plain, shaded = self.background.likeness(colors, where)
        known = self.background.known[where] > 0.7
        ground = self.background.believed(ground, known, plain, shaded)
        rival = np.clip(rivals, 0.0, 0.95)
        other = 0.3 * self.other_colors[bins] + 0.02 * alike * (rivals > 0.5) + _FLOOR
        color = np.clip(np.log(own / ((1 - rival) * ground + rival * other)), -3, 3)
        own_way, camera_way = motion.against(thing.moved)[where], motion.independent[where]
        clear = trusted & (motion.between(thing.moved)[where] > 1.5)
        place = np.where(clear & (camera_way < 0.6), np.minimum(place - 2.0, -1.5), place)
        apart = own_way > 1.3 * motion.between(thing.moved)[where] + 2.0
        place -= 2.5 * agree * (trusted & apart) + 1.0 * (clear & (own_way > 3.0) & (rivals > 0.3))
        strange = known & (np.maximum(plain, shaded) < 0.1)
        place = np.where((again > 0.5) & strange, np.maximum(place, _AGAIN), place)
        away = np.where(again > 0.5, 0, away)
        evidence = (place + color - _GONE * gone).astype(np.float32)
        evidence[away > 1.5 * reach + 1] = _NEVER
        odds = relax(evidence, crop)
        trusting = trusted[odds > 0]
        return odds, {"flow": float(trusting.mean()) if trusting.size else 0.0}

    def _look_around(self, lab: Bytes, masks: Sequence[Mask]) -> None:
        """What covers the background and is none of the objects, and what colors the background has."""
        taken = np.zeros(lab.shape[:2], bool)
        for mask in masks:
            taken |= mask
        plain, shaded = self.background.likeness(lab.astype(np.float32), _EVERYWHERE)
        near = widened(taken, 5)
        for thing in self.objects:
            near |= thing.again(lab) > 0.5
        strange = (plain < 0.2) & (shaded < 0.2) & (self.background.known > 0.7) & ~near
        opened = cv2.morphologyEx(strange.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5)))
        self.others = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((7, 7))).astype(np.float32)
        self.others[taken] = 0
        bins = color_bins(lab)
        if self.others.sum() > 20:
            seen = histogram(bins, self.others)
            self.other_colors = seen if not self.other_colors.any() else 0.8 * self.other_colors + 0.2 * seen
        self.ground_colors = histogram(bins, ~near & (self.others < 0.5))


def follow(
    frames: Sequence[Frame], start: int, masks: Sequence[Mask], progress: Callable[[float], None] = lambda share: None,
    areas: Sequence[Mask | None] | None = None,
) -> list[list[Shot]]:  # fmt: skip
    """Follow objects from their masks [h, w] on one frame, forwards to the end and backwards to the beginning.

    Returns for each frame one shot per object. Masks that have an area [h, w] are found again within it, by what the
    clip shows of the background behind them.
    """
    backdrop = Backdrop(frames)
    rough = Rough(frames, start, masks, backdrop)
    backdrop.leave_out(rough.covered)
    if areas is not None:
        background = Background(*backdrop.of(start)).fitted(lab_of(frames[start]), ~rough.covered[start])
        masks = [
            mask if area is None else refined(frames[start], mask, area, background, rough.going)
            for mask, area in zip(masks, areas, strict=True)
        ]
    found = {start: [Shot(mask, {"given": 1.0}) for mask in masks]}
    for numbers in (range(start + 1, len(frames)), range(start - 1, -1, -1)):
        scene = _Scene(frames, backdrop, start, masks, rough.motions)
        for number in numbers:
            found[number] = scene.step(number)
            progress(len(found) / len(frames))
    return [found[number] for number in range(len(frames))]


@dataclass(frozen=True)
class Track:
    """What was followed through a clip: masks at the clip's size, and a confidence from 0 to 1 for each frame.

    A frame's confidence is that of the least certain object. Below `LIMIT` the mask should be looked at.
    """

    shots: list[list[Shot]]
    size: tuple[int, int]

    @property
    def count(self) -> int:
        """The number of frames."""
        return len(self.shots)

    @cached_property
    def confidence(self) -> list[float]:
        """How sure each frame's masks are, away from the selected one; of three frames the middle value counts."""
        each = [min(confidence(shot.facts) for shot in shots) for shots in self.shots]
        padded = [each[0], *each, each[-1]]
        sure = [value if value == 1 else sorted(padded[n : n + 3])[1] for n, value in enumerate(each)]
        start = next((number for number, shots in enumerate(self.shots) if "given" in shots[0].facts), 0)
        for number in range(start + 1, len(sure)):
            sure[number] = min(sure[number], sure[number - 1] + _RISE)
        for number in range(start - 1, -1, -1):
            sure[number] = min(sure[number], sure[number + 1] + _RISE)
        return sure

    def is_low(self, number: int) -> bool:
        """Whether a frame's masks should be looked at."""
        return self.confidence[number] < LIMIT

    @property
    def first_lost(self) -> int | None:
        """The first frame of the clip in which an object is probably lost; None if there is none."""
        return next((number for number, sure in enumerate(self.confidence) if sure < _LOST), None)

    def masks(self, number: int) -> list[Mask]:
        """The masks [h, w] of one frame, one per object, at the clip's size."""
        return [_enlarged(shot.mask, *self.size) for shot in self.shots[number]]


def _enlarged(mask: Mask, width: int, height: int) -> Mask:
    if mask.shape == (height, width):
        return mask
    large: Mask = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC) > 0.5
    return large


def follow_selections(
    frames: Sequence[Frame], start: int, selections: Sequence[Selection], *, segmenter: Segmenter = grab,
    progress: Callable[[float], None] = lambda share: None,
) -> Track:  # fmt: skip
    """Cut out what was selected on the frame `start`, and follow it through the clip.

    Frames are worked on at a longest side of `WORKING_SIDE` pixels.
    """
    height, width, _ = frames[0].shape
    scale = min(1.0, WORKING_SIDE / max(width, height))
    small = max(round(width * scale), 8), max(round(height * scale), 8)
    sized = list(frames) if small == (width, height) else [shrunk(frame, *small) for frame in frames]
    whole = [segmenter(frames[start], selection) for selection in selections]
    masks = [
        np.asarray(cv2.resize(mask.astype(np.float32), small, interpolation=cv2.INTER_AREA)) > 0.5 for mask in whole
    ]
    areas: list[Mask | None] = [None] * len(whole)
    if segmenter is grab:
        near = [selection.scaled(small[0] / width, small[1] / height, *small) for selection in selections]
        areas = [None if each.is_exact else each.area(*small) for each in near]
    shots = follow(sized, start, masks, progress, areas)
    for index, mask in enumerate(whole):
        if areas[index] is None:
            shots[start][index] = Shot(mask, {"given": 1.0})
    return Track(shots, (width, height))


def features(facts: dict[str, float]) -> dict[str, float]:
    """What the confidence is computed from, as shares from 0 to 1."""
    shares = {name: facts.get(name, 0.0) for name in ("flow", "color", "overlap")}
    return {**shares, "hidden": facts.get("hidden", 1.0)}


def confidence(facts: dict[str, float]) -> float:
    """From 0 to 1: whether a mask is likely to be right, from what was seen while it was found in this frame.

    A logistic regression on rendered clips whose true masks are known: `python -m benchmarks.tracking --fit`.
    """
    if "given" in facts:
        return 1.0
    values = features(facts)
    total = _BIAS + sum(weight * values[name] for name, weight in _WEIGHTS.items())
    return float(1 / (1 + np.exp(-total)))
