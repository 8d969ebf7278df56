"""How well masks follow objects, against the true masks of rendered clips.

    python -m benchmarks.tracking [--count 300] [--first SEED] [--size 416x240] [--frames 33] [--processes N] [--fit]
        [--speed]

Each actor of each clip is selected by the box around it on the first frame where most of it can be seen, and followed
to the end. Printed are the mean intersection over union with the truth, for single actors and for pairs that cross, and
what the confidence is worth: the share of bad frames (below 0.6) that it flags, and how many frames it flags. `--fit`
prints the weights of the confidence, fitted to these clips; `--speed` times a clip of 832x480 instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from lichtspiel.footage.confidence import LOST, signs
from lichtspiel.footage.segment import box_of
from lichtspiel.footage.selection import Selection
from lichtspiel.footage.track import LIMIT, follow_selections
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import FULL, sample

BAD, FLAGGED = 0.6, 0.95


@dataclass(frozen=True)
class Followed:
    """One actor of one clip: how right each frame is, and what its confidence is made from."""

    name: str
    pair: bool
    front: bool
    overlaps: list[float]
    facts: list[dict[str, float]]
    confidence: list[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.overlaps))


def overlap(one: Any, other: Any) -> float:
    """Intersection over union; 1 if both are empty."""
    union = np.logical_or(one, other).sum()
    return float(np.logical_and(one, other).sum() / union) if union else 1.0


def measure(seed: int, width: int, height: int, frames: int) -> Iterator[Followed]:
    """Follow each actor of one clip."""
    scene = sample(seed, FULL)
    clip = render(scene, seed, width=width, height=height, frames=frames)
    for number, actor in enumerate(scene.actors, start=1):
        truth = clip.masks == number
        areas = truth.sum((1, 2))
        start = int(np.argmax(areas > 0.7 * np.median(areas)))
        box = box_of(truth[start])
        if box is None or min(box[2] - box[0], box[3] - box[1]) < 4:
            continue
        found = follow_selections(list(clip.frames), start, [Selection(box=box)])
        seen = [index for index in range(start, frames) if areas[index] > 20]
        yield Followed(
            f"{seed} {actor.subject} {actor.action} {scene.place} {scene.time} {scene.weather} {scene.camera}",
            len(scene.actors) == 2, number == 1,
            [overlap(found.masks(index)[0], truth[index]) for index in seen],
            [found.shots[index][0].facts for index in seen],
            [found.confidence[index] for index in seen],
        )  # fmt: skip


def all_of(seed: int, *, width: int, height: int, frames: int) -> list[Followed]:
    """The actors of one clip, in a process of its own."""
    cv2.setNumThreads(1)
    return list(measure(seed, width, height, frames))


def speed() -> None:
    """Frames per second at 832x480, selection and enlargement included."""
    clip = render(sample(5001, FULL), 5001, width=832, height=480, frames=33)
    box = box_of(clip.masks[0] == 1)
    start = time.perf_counter()
    found = follow_selections(list(clip.frames), 0, [Selection(box=box)])
    for index in range(found.count):
        found.masks(index)
    print(f"{33 / (time.perf_counter() - start):.1f} frames per second at 832x480")


def fit(rows: list[Followed]) -> None:
    """Logistic regression of 'less than 0.6 right' on doubts that only add up, both kinds of frames counting the same.

    A doubt grows from the middle value of a sign in right frames to the value that a tenth of the bad ones exceed. Then
    the log odds are shifted until `FLAGGED` of the bad frames are below the limit. The selected frames are left out.
    """
    names = list(signs({}))
    shown = [
        (signs(facts), value)
        for row in rows
        for facts, value in zip(row.facts, row.overlaps, strict=True)
        if "given" not in facts
    ]
    bad = np.array([value < BAD for _, value in shown])
    values = np.array([[each[name] for name in names] for each, _ in shown])
    least = np.median(values[~bad], axis=0)
    most = np.maximum(np.quantile(values[bad], 0.9, axis=0), least + 0.05)
    doubts = np.clip((values - least) / (most - least), 0, 1)
    weight = np.where(bad, 0.5 / bad.mean(), 0.5 / (~bad).mean())[:, None] / len(bad)
    inputs = np.hstack([doubts, np.ones((len(doubts), 1))])
    ridge = np.append(np.full(len(names), 3e-3), 0)
    step = 1 / (0.25 * np.linalg.eigvalsh((inputs * weight).T @ inputs)[-1] + 3e-3)
    solution = ahead = np.zeros(inputs.shape[1])
    for number in range(2000):  # Nesterov's accelerated gradient, on weights that are not negative
        chance = 1 / (1 + np.exp(-inputs @ ahead))
        new = ahead - step * (inputs.T @ (weight[:, 0] * (chance - bad)) + ridge * ahead)
        new[:-1] = np.maximum(new[:-1], 0)
        ahead, solution = new + number / (number + 3) * (new - solution), new
    against = doubts @ solution[:-1]
    sure = float(np.quantile(against[bad], 1 - FLAGGED))
    for row in zip(names, least, most, solution, strict=False):
        print("{}: ({:.3f}, {:.3f}, {:.2f})".format(*row))
    print(f"sure: {sure:.2f}")
    flagged = against > sure
    print(f"fitted: flags {flagged[bad].mean():.1%} of the bad frames and {flagged[~bad].mean():.1%} of others")


def report(rows: list[Followed]) -> None:
    """The figures."""
    for title, chosen in (
        ("all", rows), ("single", [row for row in rows if not row.pair]), ("pairs", [row for row in rows if row.pair]),
        ("pairs, in front", [row for row in rows if row.pair and row.front]),
        ("pairs, behind", [row for row in rows if row.pair and not row.front]),
    ):  # fmt: skip
        if chosen:
            means = [row.mean for row in chosen]
            print(f"{title:<16} {len(chosen):4} followed, mean IoU {np.mean(means):.3f}, median {np.median(means):.3f}")
    overlaps = np.array([value for row in rows for value in row.overlaps])
    flagged = np.array([sure < LIMIT for row in rows for sure in row.confidence])
    bad = overlaps < BAD
    print(f"frames below IoU {BAD}: {bad.mean():.1%}; the confidence flags {flagged[bad].mean():.1%} of them")
    print(f"frames flagged: {flagged.mean():.1%}; of those that are right, {flagged[~bad].mean():.1%}")
    for title, chosen in (
        ("right throughout", [row for row in rows if min(row.overlaps) >= BAD]),
        ("with bad frames", [row for row in rows if min(row.overlaps) < BAD]),
    ):
        stopped = [min(row.confidence) < LOST for row in chosen]
        if chosen:
            print(f"followed {title}: {len(chosen)}, of which {np.mean(stopped):.1%} stop as lost")


def main() -> None:
    """Follow, and print the figures and the clips that went worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=9000)
    parser.add_argument("--size", default="416x240")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time, and say how many there were")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    if arguments.speed:
        speed()
        return
    width, height = map(int, arguments.size.split("x"))
    rows: list[Followed] = []
    start, clips = time.perf_counter(), 0
    seeds = range(arguments.first, arguments.first + arguments.count)
    measured = partial(all_of, width=width, height=height, frames=arguments.frames)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for found in pool.map(measured, seeds):
            rows += found
            clips += 1
            if clips % 25 == 0:
                print(f"{clips} clips, mean IoU {np.mean([row.mean for row in rows]):.3f}", flush=True)
            if time.perf_counter() - start > 60 * arguments.minutes:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    print(
        f"{clips} clips, {sum(len(row.overlaps) for row in rows) / (time.perf_counter() - start):.1f} frames a second"
    )
    report(rows)
    if arguments.fit:
        fit(rows)
    for row in sorted(rows, key=lambda row: row.mean)[:12]:
        print(f"  {row.mean:.3f}  {row.name}")


if __name__ == "__main__":
    main()
