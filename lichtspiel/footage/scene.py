"""Find objects in one frame after the other: what every pixel shows, the object, the background or something else.

The object is told by its color distribution and by the pixels that optical flow carries over; the background by a
picture of it that is collected wherever nothing covers it and moves with the camera. What the object hides behind
something else is remembered, moves on with it and is looked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.footage.ahead import View
from lichtspiel.footage.backdrop import Background
from lichtspiel.footage.evidence import contrast, left_out, shape, torn, unchanged
from lichtspiel.footage.memory import Memory
from lichtspiel.footage.motion import EVERYWHERE, Flows, Motion, carry, surroundings
from lichtspiel.footage.pixels import Bytes, Floats, Mask, lab_of, pull, widened
from lichtspiel.footage.segment import FLOOR, NEVER, box_of, color_bins, histogram, relax, tidy
from lichtspiel.footage.shapes import distance, reaching, united
from lichtspiel.frames import Frame

__all__ = ["Scene", "Shot"]


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

_MARGIN = 20
"""How far around an object what may cover it is looked for, in pixels."""

_RECENT, _STUCK = 0.2, 0.5
"""How much the frame at hand counts in how torn a mask is, because objects pause and start while they walk; and the
share of it that is as on the selected frame from which on that counts in full, because objects bend, too."""

_APART, _RARE, _GONE = 28.0, 1e-3, 4.0
"""Where something else is seen: how far its color is from the object's there, how rare it is in all of the object, and
what that takes off the log odds."""


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
    hand, `again` [h, w] is 1 where it is seen as on the selected frame. `torn` is how much of the mask went another way
    than the rest in the last frames.
    """

    mask: Floats
    hidden: Floats
    template: Floats
    colors: Floats
    first_colors: Floats
    moved: NDArray[np.float64]
    memory: Memory
    anchor: Memory
    again: Floats
    seen: bool = True
    torn: float = 0.0


class Scene:
    """The state that all objects of a clip share while it is walked through in one direction."""

    def __init__(
        self, frame: Frame, ground: tuple[Floats, Floats], masks: Sequence[Mask], side: Executor
    ) -> None:  # fmt: skip
        """Begin on the selected frame, from the background of it (colors, and where they are known) and the objects'
        masks; what can wait is worked on in the threads of `side`."""
        self.side = side
        height, width, _ = frame.shape
        self.flows = Flows(width, height)
        lab = lab_of(frame)
        bins = color_bins(lab)
        self.first, self.placed = lab, np.eye(3)
        self.stuck = side.submit(unchanged, lab, lab, self.placed[:2])
        self.objects = [_object(mask, lab, bins) for mask in masks]
        self.never = _never_uncovered(lab, ground[0], masks)
        self.others: Floats = np.zeros((height, width), np.float32)
        self.other_colors: Floats = np.zeros(4096, np.float32)
        self.background = Background(ground[0], ground[1] * (self.never < 0.5))
        self.explained = self._explained(lab)
        self.weighed: list[tuple[dict[str, float], Future[dict[str, float]]]] = []
        self._look_around(bins, masks)

    def _explained(self, lab: Bytes) -> Future[tuple[Floats, Floats]]:
        """How likely each pixel shows the background, and how likely in a shadow."""
        return self.side.submit(self.background.likeness, lab.astype(np.float32), EVERYWHERE)

    def step(self, view: View) -> list[Shot]:
        """Go on to the next frame."""
        motion, lab = view.motion, view.lab
        self.never = carry(self.never, motion.camera)
        self.placed = self.placed @ np.vstack([motion.camera, [0, 0, 1]])
        self.stuck = self.side.submit(unchanged, self.first, lab, self.placed[:2])
        covered = np.maximum.reduce([self.others, *(thing.mask for thing in self.objects)])
        open_ground = ~widened(carry(covered, motion.camera) > 0.3, 25)
        self.background = Background(view.ground, view.known * (self.never < 0.5)).fitted(lab, open_ground)
        self.explained = self._explained(lab)
        masks = [pull(thing.mask, motion.source) for thing in self.objects]
        others = pull(self.others, motion.source)
        shots = []
        for index, thing in enumerate(self.objects):
            rivals = np.maximum.reduce([others, *(mask for number, mask in enumerate(masks) if number != index)])
            shots.append(self._place(thing, masks[index], rivals, view))
        self._look_around(view.bins, [shot.mask for shot in shots])
        for facts, weighed in self.weighed:
            facts.update(weighed.result())
        self.weighed.clear()
        return shots

    def _place(self, thing: _Object, carried: Floats, rivals: Floats, view: View) -> Shot:
        """Find one object in the new frame."""
        lab, motion = view.lab, view.motion
        moved, agree = self._way(thing, carried, view)
        hidden = carry(thing.hidden, moved)
        firm = carry(thing.mask, moved)
        expected = thing.memory.expected_shape()
        gone = self.side.submit(self._gone, thing, expected, rivals, view)
        again = self.side.submit(thing.anchor.again, lab)
        motion = self._checked(thing, motion, (carried, firm, view.before), lab)
        carried = np.where(motion.trusted, carried, firm)
        prior = np.maximum(carried, hidden)
        rigid = carry(thing.template, moved)
        template = np.where(((hidden > 0.5) | ~motion.trusted)[..., None], rigid, view.before)
        covered = thing.memory.covered
        if covered > _COVERED:
            hidden = expected * (carried < 0.5)
            prior, template = expected, thing.memory.expected_colors()
            firm = expected
        where, reach = surroundings(prior, motion)
        near = (rivals > 0.3) & widened(prior > 0.5, 2 * _MARGIN + 1)
        alone = covered < _WHOLE and near.sum() < 0.03 * (prior > 0.5).sum()
        thing.again = again.result() if alone else np.zeros_like(prior)
        mask = np.zeros(prior.shape, bool)
        if where is None:
            gone.result()
            thing.mask = thing.hidden = np.zeros_like(prior)
            thing.memory.covered = 1.0
            return Shot(mask)
        maps = prior, hidden, rivals, template, np.maximum(firm, hidden)
        odds = self._odds(thing, where, reach, maps, gone, replace(view, motion=motion), agree)
        mask[where] = united(tidy(odds > 0), firm[where], motion.against(moved, where), motion.between(moved, where))
        facts = self._kept(thing, mask, prior, view.bins, where)
        covered_part = self._covered(thing, mask, expected, gone.result(), lab)
        thing.template = np.where(mask[..., None], lab.astype(np.float32), template)
        thing.hidden, thing.mask = covered_part, mask.astype(np.float32)
        facts["hidden"] = float(covered_part.sum()) / max(float(covered_part.sum() + mask.sum()), 1)
        weigh = self.side.submit(self._weighed, thing, mask, covered_part > 0.5, view, where, self.ground_colors)
        self.weighed.append((facts, weigh))
        return Shot(mask, facts)

    def _weighed(
        self, thing: _Object, mask: Mask, hidden: Mask, view: View, where: tuple[slice, slice], ground: Floats
    ) -> dict[str, float]:
        """What speaks for a mask and against it, whatever it was found by."""
        own = (thing.first_colors > ground)[view.bins]
        facts = {"own": left_out(mask, self._strange(), own), "contrast": contrast(mask[where], view.lab[where])}
        way = view.motion.against(view.motion.camera, where)[mask[where] & view.motion.trusted[where]]
        if (now := torn(way)) is not None:
            thing.torn += _RECENT * (now - thing.torn)
        stuck = float((mask & self.stuck.result()).sum()) / max(float(mask.sum()), 1.0)
        facts["torn"] = thing.torn * min(stuck / _STUCK, 1.0)
        return facts | shape(mask | hidden, thing.anchor)

    @staticmethod
    def _kept(
        thing: _Object, mask: Mask, prior: Floats, bins: NDArray[np.int32], where: tuple[slice, slice]
    ) -> dict[str, float]:
        """How much of what was selected and of what was expected the mask shows; its colors are learned."""
        shown = histogram(bins[where], mask[where])
        union = float((mask | (prior > 0.5)).sum())
        facts = {
            "color": float(np.sqrt(shown * thing.first_colors).sum()),
            "overlap": float((mask & (prior > 0.5)).sum()) / max(union, 1),
        }
        if mask.sum() > 12:
            thing.colors = 0.7 * thing.colors + 0.1 * shown + 0.2 * thing.first_colors
        return facts

    def _checked(self, thing: _Object, motion: Motion, maps: tuple[Floats, Floats, Floats], lab: Bytes) -> Motion:
        """Do not trust the flow around an object that its motion as a whole explains far better."""
        carried, firm, before = maps
        apart = lab - before
        alike = (np.einsum("hwc,hwc->hw", apart, apart) < _APART**2) & (carried > 0.5) & motion.trusted
        if thing.memory.recognized(lab, np.eye(2, 3)) < float(alike.sum()) / max(float(thing.mask.sum()), 1) + _BETTER:
            return motion
        near = widened((carried > 0.5) | (firm > 0.5), 15)
        return replace(motion, trusted=motion.trusted & ~near)

    def _way(self, thing: _Object, carried: Floats, view: View) -> tuple[NDArray[np.float64], float]:
        """How the object moved: from its new places to its old ones, and how sure that is."""
        memory, motion, lab = thing.memory, view.motion, view.lab
        moved: NDArray[np.float64] | None = None
        agree, least = 0.0, (0.3 if memory.covered <= _COVERED else 0.6)
        if memory.covered < 0.7:
            moved, agree = self._measured(thing, carried, view)
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
            memory.look(lab, self._open_ground())
            moved = (np.linalg.inv(before) @ memory.pose)[:2]
        thing.moved = moved
        thing.anchor.move(moved)
        return moved, agree

    def _measured(self, thing: _Object, carried: Floats, view: View) -> tuple[NDArray[np.float64] | None, float]:
        """The motion of an object by its corners, near where flow carries it; where that does not show its colors, near
        where it would go on as before, and where its colors are seen."""
        lab = view.lab
        moved, agree = self.flows.object_motion(view.last, view.gray, carried > 0.5)
        best = thing.memory.recognized(lab, moved) if moved is not None else 0.0
        if best > _RECOGNIZED or thing.memory.covered > _COVERED:
            return moved, agree
        leap = thing.memory.leap(lab, self._open_ground(), thing.memory.predicted(view.motion.camera))
        for guess in (thing.moved, leap):
            where = carry(thing.mask, guess) > 0.5
            other, share = self.flows.object_motion(view.last, view.gray, where, guess)
            if other is None:
                other, share = guess, 0.0
            seen = thing.memory.recognized(lab, other)
            if (plainly := thing.memory.recognized(lab, guess)) > seen:
                other, seen, share = guess, plainly, 0.5 * plainly
            if seen > best + _TIE:
                moved, agree, best = other, max(share, 0.5 * seen), seen
        return moved, agree

    def _strange(self) -> Mask:
        """Where the frame shows something else than the background, [h, w]."""
        plain, shaded = self.explained.result()
        return np.asarray((plain < 0.2) & (shaded < 0.2) & (self.background.known > 0.7))

    def _open_ground(self) -> Mask:
        """Where the frame shows the background, [h, w]."""
        plain, _ = self.explained.result()
        return np.asarray((plain > 0.5) & (self.background.known > 0.7))

    def _gone(self, thing: _Object, expected: Floats, rivals: Floats, view: View) -> Floats:
        """1 where an object is expected and something is seen that is in front of it: not its colors there, and
        either what moves by itself or neither any of its colors nor the background, which an object leaves free when it
        turns or leaps."""
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
        colors, motion, crop = thing.memory.expected_colors()[where], view.motion, view.lab[where].astype(np.float32)
        difference = cv2.blur(crop, (5, 5)) - cv2.blur(colors, (5, 5))
        apart = np.einsum("hwc,hwc->hw", difference, difference) > _APART**2
        bins = view.bins[where]
        strange = (thing.first_colors[bins] < _RARE) & (thing.colors[bins] < _RARE)
        plain, shaded = self.background.likeness(crop, where)
        strange &= (self.background.known[where] > 0.7) & (np.maximum(plain, shaded) < 0.1)
        inside = expected[where] > 0.5
        by_itself = motion.against(motion.camera, where) > 1.5
        foreign = motion.trusted[where] & by_itself & (motion.against(thing.moved, where) > 2.0)
        others = reaching(foreign & (apart | ~inside), inside)
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
        gone: Future[Floats],
        view: View,
        agree: float,
    ) -> Floats:
        prior, hidden, rivals, template, firm = (each[where] for each in maps)
        motion, again = view.motion, thing.again[where]
        crop, bins, trusted = view.lab[where], view.bins[where], motion.trusted[where]
        colors = crop.astype(np.float32)
        inside = (prior > 0.5).astype(np.uint8)
        depth, away = distance(inside), distance(1 - inside)
        stiff = (firm > 0.5).astype(np.uint8)
        share = 0.5 * agree
        place = (1 - share) * (depth - away) / np.where(trusted, 2.0, reach)
        place = np.clip(place + share * (distance(stiff) - distance(1 - stiff)) / 2, -3, 3)
        place = np.where((hidden > 0.5), np.clip(place, -1, 0.5), place)
        difference = colors - template
        alike = np.exp(-np.einsum("hwc,hwc->hw", difference, difference) / 288)
        own = thing.colors[bins] + FLOOR + 0.02 * alike * (prior > 0.5)
        ring = (away > 2) & (away < 2 * reach + 6)
        ground = 0.5 * (histogram(bins, ring & (rivals < 0.5)) + self.ground_colors)[bins] + FLOOR
        plain, shaded = self.background.likeness(colors, where)
        known = self.background.known[where] > 0.7
        ground = self.background.believed(ground, known, plain, shaded)
        rival = np.clip(rivals, 0.0, 0.95)
        other = 0.3 * self.other_colors[bins] + 0.02 * alike * (rivals > 0.5) + FLOOR
        color = np.clip(np.log(own / ((1 - rival) * ground + rival * other)), -3, 3)
        own_way, camera_way = motion.against(thing.moved, where), motion.against(motion.camera, where)
        speed = motion.between(thing.moved, where)
        clear = trusted & (speed > 1.5)
        place = np.where(clear & (camera_way < 0.6), np.minimum(place - 2.0, -1.5), place)
        apart = own_way > 1.3 * speed + 2.0
        place -= 2.5 * agree * (trusted & apart) + 1.0 * (clear & (own_way > 3.0) & (rivals > 0.3))
        strange = known & (np.maximum(plain, shaded) < 0.1)
        place = np.where((again > 0.5) & strange, np.maximum(place, _AGAIN), place)
        away = np.where(again > 0.5, 0, away)
        evidence = (place + color - _GONE * gone.result()[where]).astype(np.float32)
        evidence[away > 1.5 * reach + 1] = NEVER
        return relax(evidence, crop)

    def _look_around(self, bins: NDArray[np.int32], masks: Sequence[Mask]) -> None:
        """What covers the background and is none of the objects, and what colors the background has."""
        taken = np.zeros(bins.shape, bool)
        for mask in masks:
            taken |= mask
        near = widened(taken, 5)
        for thing in self.objects:
            near |= thing.again > 0.5
        strange = self._strange() & ~near
        opened = cv2.morphologyEx(strange.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5)))
        self.others = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((7, 7))).astype(np.float32)
        self.others[taken] = 0
        if self.others.sum() > 20:
            seen = histogram(bins, self.others)
            self.other_colors = seen if not self.other_colors.any() else 0.8 * self.other_colors + 0.2 * seen
        self.ground_colors = histogram(bins, ~near & (self.others < 0.5))


def _never_uncovered(lab: Bytes, ground: Floats, masks: Sequence[Mask]) -> Floats:
    """Where the background that was found is the object itself, because it never left this place."""
    alike = np.abs(ground - lab).max(-1) < 10
    covered = np.zeros(alike.shape, bool)
    for mask in masks:
        covered |= mask
    return widened(covered & alike, 3).astype(np.float32)


def _object(mask: Mask, lab: Bytes, bins: NDArray[np.int32]) -> _Object:
    colors = histogram(bins, mask)
    solid = mask.astype(np.float32)
    anchor = Memory(solid, lab)
    return _Object(
        solid, np.zeros_like(solid), lab.astype(np.float32), colors, colors, np.eye(2, 3),
        Memory(solid, lab), anchor, anchor.again(lab),
    )  # fmt: skip
