"""Cut the items of a surveyed data set into samples, choose those for validation, and read the frames of one."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lichtspiel.errors import InvalidInput, MediaError
from lichtspiel.frames import Frame
from lichtspiel.spec import Model
from lichtspiel.tune.dataset import Bucket, Item, Sample
from lichtspiel.tune.frames import fit, frames_at, is_still, rate_of
from lichtspiel.tune.geometry import bucket_starts, fitting_size
from lichtspiel.tune.layouts import Found
from lichtspiel.tune.survey import ENLARGED, Survey

__all__ = ["by_bucket", "cut_items", "data_digest", "read_sample"]

MOST_HELD_OUT = 16


def cut_items(found: Found, surveyed: Survey, row: Model, held_out: int | None) -> list[Sample]:
    """The samples of all items. `held_out` items are for validation, see `DataOptions`; all samples of one file are on
    the same side. Raises InvalidInput if nothing would be left to train on."""
    samples: list[Sample] = []
    enlarged: set[Path] = set()
    for item in surveyed.items:
        reading = surveyed.readings[item.path]
        width, height = fitting_size(item.cut, reading.width, reading.height, row.grid)
        scale = max(width / reading.width, height / reading.height)
        if scale > ENLARGED and item.path not in enlarged:
            enlarged.add(item.path)
            small = f"is {reading.width}x{reading.height}, enlarged {scale:.1f} times to {width}x{height}"
            found.note(item.path, f"{small}: the model learns its blur; use a larger original, or a smaller --size")
        digest = _digest(item, surveyed)
        if is_still(item.path):
            frames, starts = 1, [0]
        else:
            frames, starts = bucket_starts(item.cut, reading.frames, row.vae.stride[0])
        bucket = Bucket(width=width, height=height, frames=frames)
        samples += [Sample(item=item, bucket=bucket, start=start, digest=digest) for start in starts]
    return _held_out(samples, held_out)


def _digest(item: Item, surveyed: Survey) -> str:
    parts = sorted((role, surveyed.digests[path]) for role, path in item.files.items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _held_out(samples: Sequence[Sample], count: int | None) -> list[Sample]:
    """Mark the samples of some files as held out. Which ones follows from their content, so it stays the same when
    files are added, moved or renamed."""
    digests = sorted({sample.digest for sample in samples})
    if count is None:
        count = min(len(digests) // 10 or 1, MOST_HELD_OUT) if len(digests) >= 8 else 0
    if count and count >= len(digests):
        raise InvalidInput(f"--hold-out {count} leaves nothing of {len(digests)} clips to train on; hold out fewer")
    chosen = set(digests[:count])
    return [replace(sample, held_out=sample.digest in chosen) for sample in samples]


def data_digest(samples: Sequence[Sample]) -> str:
    """Names the data: what is seen, with which captions, how often, and what is held out."""
    parts = sorted((sample.key, sample.item.caption, sample.item.repeats, sample.held_out) for sample in samples)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def by_bucket(samples: Sequence[Sample]) -> dict[Bucket, list[Sample]]:
    """The samples of each bucket, the largest bucket first."""
    buckets: dict[Bucket, list[Sample]] = {}
    for sample in sorted(samples, key=lambda one: (-one.bucket.pixels, one.bucket, str(one.item.path), one.start)):
        buckets.setdefault(sample.bucket, []).append(sample)
    return buckets


def read_sample(sample: Sample, row: Model, path: Path, *, exact: bool = False) -> list[Frame]:
    """The frames of one file of a sample's item, at the model's rate and at the size of the bucket.

    A picture serves for all frames. `exact` is for masks. Raises MediaError if the file has changed since it was
    surveyed and is now too short.
    """
    bucket = sample.bucket
    stretch = _stretch(sample, row, path)
    frames = [fit(frame, bucket.width, bucket.height, exact=exact) for frame in stretch]
    if is_still(path):
        frames *= bucket.frames
    if len(frames) != bucket.frames:
        raise MediaError(f"{path}: has changed since it was read; start again")
    return frames


def _stretch(sample: Sample, row: Model, path: Path) -> Iterator[Frame]:
    frames = frames_at(path, row.sampling.fps, rate_of(sample.item, path))
    if is_still(path):
        return frames
    return itertools.islice(frames, sample.start, sample.start + sample.bucket.frames)
