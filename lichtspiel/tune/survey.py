"""Read every file of a data set once, from the first frame to the last, and say what is wrong with it.

Everything that would end a run hours later, or would let it learn nothing, is found here in minutes: files that cannot
be decoded, clips that are too short or do not move, masks of another size, captions that the text encoder cuts off,
stills for a task that animates pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lichtspiel.errors import MediaError
from lichtspiel.frames import Frame
from lichtspiel.media.media import media_sha256
from lichtspiel.spec import Model
from lichtspiel.tokenizer import Tokenizer
from lichtspiel.tune.dataset import Item
from lichtspiel.tune.frames import frame_rate, frames_at, is_still, rate_of
from lichtspiel.tune.layouts import Found

__all__ = ["Reading", "Survey", "survey"]

SIDE = 32
"""Pixels per side of the small gray picture that frames are compared by."""

MOVES = 2.0
"""Levels (of 255) by which some pixel of the small picture differs from the first frame's in a clip that moves; lossy
coding alone changes it by one."""

FLAT = 1.0
"""Levels of spread below which a frame shows one even color."""

BITS = 4
"""Bits (of 64) by which the outlines of two looks of the same scene differ at most."""

ENLARGED = 1.5
"""From this factor on, a clip that is smaller than its bucket is named, because a model learns its blur."""


WATCHED_EVERY, MOST_WATCHED = 32, 4
"""The policy sees every 32nd frame of a file, four at most."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read of one file: frames at the model's rate, size, the rate that it states, and how it looks: the
    outline of its first frame, whether it moves, and how much its levels spread."""

    frames: int
    width: int
    height: int
    rate: float | None
    outline: int
    motion: float
    spread: float
    darkest: int
    brightest: int


@dataclass
class Survey:
    """The items that can be used, the readings of all files, and the SHA-256 of each file's content."""

    items: list[Item] = field(default_factory=list)
    readings: dict[Path, Reading] = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)


def survey(
    found: Found,
    row: Model,
    tokenizer: Tokenizer,
    *,
    watch: Callable[[Path, Frame], None] = lambda path, frame: None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> Survey:
    """Read all files of all items; what is wrong with one is added to the findings, and the item is left out.

    `watch` sees a few frames of every file.
    """
    result = Survey()
    rates = {path: rate_of(item, path) for item in found.items for path in item.files.values()}
    paths = list(rates)
    broken: set[Path] = set()
    for number, path in enumerate(paths):
        progress("reading the data", number / max(len(paths), 1))
        try:
            result.readings[path] = _read(path, row.sampling.fps, rates[path], watch)
            result.digests[path] = media_sha256(path)
        except MediaError as error:
            found.refuse(path, str(error).removeprefix(f"{path}: "))
            broken.add(path)
        except OSError as error:
            found.refuse(path, f"cannot be read: {error.strerror or error}")
            broken.add(path)
    for item in found.items:
        if not broken & set(item.files.values()) and _usable(found, item, row, tokenizer, result):
            result.items.append(item)
    _find_twins(found, result)
    return result


def _read(path: Path, fps: float, rate: float | None, watch: Callable[[Path, Frame], None]) -> Reading:
    first: NDArray[np.int16] | None = None
    motion, count, outline, spread, darkest, brightest = 0.0, 0, 0, 0.0, 255, 0
    height = width = 0
    for frame in frames_at(path, fps, rate):
        if count % WATCHED_EVERY == 0 and count < WATCHED_EVERY * MOST_WATCHED:
            watch(path, frame)
        small = _small(frame)
        if first is None:
            first, outline = small, _outline(frame)
            height, width = frame.shape[:2]
        elif frame.shape[:2] != (height, width):
            sizes = f"{width}x{height} and then {frame.shape[1]}x{frame.shape[0]}"
            raise MediaError(f"{path}: its frames differ in size, {sizes}; export it again")
        motion = max(motion, float(np.abs(small - first).max()))
        spread = max(spread, float(frame.reshape(-1, 3).std(axis=0).max()))
        darkest, brightest = min(darkest, int(frame.min())), max(brightest, int(frame.max()))
        count += 1
    if not count:
        raise MediaError(f"{path}: holds no frame; export it again")
    return Reading(
        frames=count, width=width, height=height, rate=rate or frame_rate(path), outline=outline, motion=motion,
        spread=spread, darkest=darkest, brightest=brightest,
    )  # fmt: skip


def _small(frame: Frame) -> NDArray[np.int16]:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.int16)


def _outline(frame: Frame) -> int:
    """64 bits that say where a frame gets brighter to the right: the difference hash (N. Krawetz, "Kind of Like That",
    2013)."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = np.asarray(cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA), np.int16)
    bits = (small[:, 1:] > small[:, :-1]).flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _usable(found: Found, item: Item, row: Model, tokenizer: Tokenizer, result: Survey) -> bool:
    """Whether an item can be used; says why not."""
    refused = sum(finding.refused for finding in found.findings)
    reading = result.readings[item.path]
    still = is_still(item.path)
    _check_caption(found, item, tokenizer)
    if still:
        _check_still(found, item, row)
    else:
        _check_clip(found, item, reading, row)
    if reading.spread < FLAT:
        found.refuse(item.path, "shows one even color; remove it")
    _check_companions(found, item, row, result)
    return sum(finding.refused for finding in found.findings) == refused


def _check_caption(found: Found, item: Item, tokenizer: Tokenizer) -> None:
    if unread := tokenizer.unread_words(item.caption):
        told = " ".join(unread[:6])
        found.refuse(
            item.path, f"its caption is too long for the text encoder, which would not read “{told} …”; cut it"
        )
    if unknown := tokenizer.unknown_words(item.caption):
        found.note(item.path, f"the text encoder does not know these words: {', '.join(unknown[:6])}")


def _check_still(found: Found, item: Item, row: Model) -> None:
    if "text" not in row.tasks:
        found.refuse(
            item.path,
            f"is a picture, and {row.name} animates pictures: it learns nothing from one that does not move; "
            "give clips, or tune a model for text to video",
        )


def _check_clip(found: Found, item: Item, reading: Reading, row: Model) -> None:
    shortest, fps = min(item.cut.lengths), row.sampling.fps
    if reading.frames < shortest:
        found.refuse(
            item.path,
            f"lasts {reading.frames / fps:.1f} seconds, {reading.frames} frames at {fps} per second, and the shortest "
            f"sample has {shortest}; remove it, use a longer clip, or allow fewer with --frames",
        )
    elif reading.motion < MOVES and shortest > 1:
        found.refuse(item.path, "does not move: all its frames are alike; remove it, or give one of them as a picture")
    if reading.rate is not None and reading.rate < 0.75 * fps:
        found.note(item.path, f"has {reading.rate:g} frames per second, so some are shown twice at {fps}")


def _check_companions(found: Found, item: Item, row: Model, result: Survey) -> None:
    clip = result.readings[item.path]
    if not row.dit.vace_layers:
        for role, extra in item.files.items():
            if role in {"control", "mask"} or role.startswith("reference"):
                found.refuse(extra, f"is a {role.split()[0]}, which only VACE models take; use one, or remove it")
        if item.control or item.mask or item.references:
            return
    beside = {"control": item.control, "mask": item.mask, "weight": item.weight}
    for role, path in beside.items():
        if path is None:
            continue
        reading = result.readings[path]
        size = f"{reading.width}x{reading.height} and {item.path.name} {clip.width}x{clip.height}"
        if (reading.width, reading.height) != (clip.width, clip.height):
            found.refuse(path, f"this {role} is {size}; export it at the clip's size")
        elif reading.frames != clip.frames and not is_still(path):
            counts = f"{reading.frames} frames and {item.path.name} {clip.frames}"
            found.refuse(path, f"this {role} has {counts}; export it as long as the clip, or give one picture")
        elif role in {"mask", "weight"} and reading.brightest < 128:
            meaning = "nothing in it would be new" if role == "mask" else "nothing in it would count in the loss"
            found.refuse(path, f"this {role} is black, so {meaning}; white is what {_white(role)}")


def _white(role: str) -> str:
    return "the model shall make" if role == "mask" else "counts"


def _find_twins(found: Found, result: Survey) -> None:
    """Name files that are in the data twice, and those that look the same."""
    seen: dict[str, Path] = {}
    unlike: list[Path] = []
    for path in dict.fromkeys(item.path for item in result.items):
        digest = result.digests[path]
        if digest in seen:
            found.refuse(path, f"is the same file as {seen[digest].name}; remove one, or set repeats instead")
            continue
        seen[digest] = path
        twin = next((other for other in unlike if _alike(result.readings[path], result.readings[other])), None)
        if twin is None:
            unlike.append(path)
        else:
            found.note(path, f"looks like {twin.name}; what comes twice is learnt twice as much")


def _alike(one: Reading, other: Reading) -> bool:
    same = (one.width * other.height == other.width * one.height) and one.frames == other.frames
    return same and (one.outline ^ other.outline).bit_count() <= BITS and abs(one.motion - other.motion) < MOVES
