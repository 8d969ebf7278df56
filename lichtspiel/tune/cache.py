"""The cache of a data set: what the VAE, the CLIP tower and the text encoder made of it, so that they can leave memory.

    CACHE/index.json                   which samples there are, what made them, and facts about the data
    CACHE/samples/KEY.safetensors      one sample: latents, conditions, CLIP features, weights of the loss
    CACHE/texts/DIGEST.safetensors     the text states of one caption

`encode` writes the samples and texts one by one, so that it can go on where it stopped, and the index last. Every file
carries the fingerprints of the networks that made it.

Letters: b batch, c channels, r references, t, h, w latent time, height and width, i images, l tokens, d widths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lichtspiel.errors import InvalidInput
from lichtspiel.storage import atomic_write
from lichtspiel.tune.dataset import Bucket

__all__ = [
    "Batch", "Cache", "Facts", "Row", "batches", "has_tensors", "open_cache", "sample_path", "text_path", "write_index",
    "write_tensors",
]  # fmt: skip

INDEX = "index.json"
EDITION = 1
"""Increased when what is stored changes its meaning; caches of another edition are made anew."""

LATENTS, FIRST, FIRST_LAST, CLIP, VACE, VACE_MASK, WEIGHT = (
    "latents", "first", "first_last", "clip", "vace", "vace_mask", "weight",
)  # fmt: skip
"""The tensors of a sample, see `Batch`; `vace` and `vace_mask` are joined on reading, because the mask takes a byte."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """About the data as a whole, for the metadata of what is trained on it.

    `model` is the name of the checkpoint, and `made_by` holds the fingerprint of each network that encoded the data.
    `digest` names the data: files, captions, buckets and repeats. `triggers` are the trigger words. `people` is the
    number of items with recognizable people, and `consent` the statement about them.
    """

    model: str
    made_by: dict[str, str]
    digest: str
    triggers: tuple[str, ...] = ()
    people: int = 0
    consent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample in a cache: its key, bucket and caption, how often an epoch sees it, whether it is for validation
    only, and the file that it was cut from, for messages."""

    key: str
    bucket: Bucket
    caption: str
    source: str
    repeats: int = 1
    held_out: bool = False


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket, on the CPU in float32 until `to`.

    `latents` [b, c, r + t, h, w] are normalized and clean; the r references of VACE come first, as in generation.
    `text` [b, l, d] is padded with zeros. What the model or the bucket cannot use is None: `first` and `first_last`
    [b, c, t, h, w], the condition latents of a video that is gray but for its first, or first and last, frame, to be
    joined to `conditioning.known_frames`; `clip` [b·i, 257, d], as `DiT.forward` takes it; `vace` [b, 2c + 64, r + t,
    h, w], VACE's whole context. `weight` [b, 1, r + t, h, w] is how much each cell counts in the loss (None: all 1).
    """

    bucket: Bucket
    rows: tuple[Row, ...]
    latents: Tensor
    text: Tensor
    first: Tensor | None = None
    first_last: Tensor | None = None
    clip: Tensor | None = None
    vace: Tensor | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""

        def moved(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        known = (self.first, self.first_last, self.clip, self.vace, self.weight)
        return Batch(self.bucket, self.rows, self.latents.to(device), self.text.to(device), *map(moved, known))


@dataclass(frozen=True)
class Cache:
    """An open cache, complete as its index says. `empty` [1, l, d] holds the text states of the empty caption, which
    takes the place of some captions in training, as guidance needs."""

    folder: Path
    facts: Facts
    rows: tuple[Row, ...]
    empty: Tensor
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, folder: Path, facts: Facts, rows: Sequence[Row]) -> Cache:
        """A cache of some samples that are in a folder."""
        bare = cls(folder, facts, tuple(rows), torch.empty(0))
        return replace(bare, empty=bare._text(""))

    @property
    def buckets(self) -> list[Bucket]:
        """All buckets, the largest first."""
        return sorted({row.bucket for row in self.rows}, key=lambda bucket: (-bucket.pixels, bucket))

    def select(self, bucket: Bucket | None = None, *, held_out: bool = False) -> list[Row]:
        """The samples of a bucket, or of all; either those to train on or those for validation."""
        return [row for row in self.rows if row.held_out == held_out and bucket in (None, row.bucket)]

    def read(self, rows: Sequence[Row]) -> Batch:
        """Read samples of one bucket. Raises InvalidInput if a file is missing or damaged."""
        assert len({row.bucket for row in rows}) == 1, "a batch has one bucket"
        parts = [self._load(sample_path(self.folder, row.key)) for row in rows]
        latents = torch.stack([part[LATENTS] for part in parts]).float()
        tensors: dict[str, Tensor] = {}
        for name in (FIRST, FIRST_LAST):
            if all(name in part for part in parts):
                tensors[name] = torch.stack([part[name] for part in parts]).float()
        if all(CLIP in part for part in parts):
            tensors[CLIP] = torch.cat([part[CLIP] for part in parts]).float()
        if all(VACE in part for part in parts):
            joined = [torch.cat([part[VACE].float(), part[VACE_MASK].float()]) for part in parts]
            tensors[VACE] = torch.stack(joined)
        if any(WEIGHT in part for part in parts):
            ones = torch.ones(1, *latents.shape[2:])
            tensors[WEIGHT] = torch.stack([part.get(WEIGHT, ones).float() for part in parts])
        states = [self._text(row.caption) for row in rows]
        longest = max(state.shape[1] for state in states)
        text = torch.cat([F.pad(state, (0, 0, 0, longest - state.shape[1])) for state in states])
        return Batch(rows[0].bucket, tuple(rows), latents, text, **tensors)

    def _text(self, caption: str) -> Tensor:
        if caption not in self._texts:
            self._texts[caption] = self._load(text_path(self.folder, caption))["states"].float()
        return self._texts[caption]

    def _load(self, path: Path) -> dict[str, Tensor]:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise InvalidInput(
                f"{path} of the cache is missing or damaged; delete {self.folder} to have it made anew"
            ) from error


def batches(
    cache: Cache, size: int, seed: int, *, start: int = 0, step: int = 1, bucket: Bucket | None = None
) -> Iterator[Batch]:
    """Endless batches of up to `size` samples: those with the numbers `start`, `start + step` and so on.

    Batch n depends on the cache, size, seed and n alone, so a run can go on anywhere, and processes can share an epoch.
    In an epoch each sample comes as often as it is repeated, in random order. A bucket whose samples do not fill its
    last batch gives a smaller batch: nothing is dropped, and nothing is seen more often than it should be.
    """
    per_epoch = len(_epoch(cache, size, seed, 0, bucket))
    if not per_epoch:
        raise InvalidInput(f"{cache.folder} has no samples to train on")
    number, plan, planned = start, list[list[Row]](), -1
    while True:
        epoch, place = divmod(number, per_epoch)
        if epoch != planned:
            plan, planned = _epoch(cache, size, seed, epoch, bucket), epoch
        yield cache.read(plan[place])
        number += step


def _epoch(cache: Cache, size: int, seed: int, epoch: int, bucket: Bucket | None) -> list[list[Row]]:
    """The samples of every batch of an epoch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32)
    plan: list[list[Row]] = []
    for one in cache.buckets if bucket is None else [bucket]:
        rows = [row for row in cache.select(one) for _ in range(row.repeats)]
        order = torch.randperm(len(rows), generator=generator).tolist()
        shuffled = [rows[index] for index in order]
        plan += [shuffled[begin : begin + size] for begin in range(0, len(shuffled), size)]
    return [plan[index] for index in torch.randperm(len(plan), generator=generator).tolist()]


def open_cache(folder: Path) -> Cache:
    """Open a finished cache. Raises InvalidInput if there is none, or if it was made by another edition."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{folder} holds no finished cache; run `lichtspiel tune check` on the data first"
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is damaged; delete {folder} to have it made anew") from error
    if index.get("edition") != EDITION:
        raise InvalidInput(f"{folder} was made by another edition of this package; delete it to have it made anew")
    facts = Facts(**index["facts"] | {"triggers": tuple(index["facts"]["triggers"])})
    rows = tuple(Row(**row | {"bucket": Bucket(**row["bucket"])}) for row in index["rows"])
    return Cache.of(folder, facts, rows)


def write_index(folder: Path, facts: Facts, rows: Sequence[Row]) -> None:
    """Write the index, which finishes a cache; every file that it names must be there."""
    content: dict[str, Any] = {
        "edition": EDITION,
        "facts": {one.name: getattr(facts, one.name) for one in fields(facts)},
        "rows": [{one.name: getattr(row, one.name) for one in fields(row)} for row in rows],
    }
    for row in content["rows"]:
        row["bucket"] = {one.name: getattr(row["bucket"], one.name) for one in fields(Bucket)}
    with atomic_write(folder / INDEX) as draft:
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def sample_path(folder: Path, key: str) -> Path:
    """The file of a sample."""
    return folder / "samples" / f"{key}.safetensors"


def text_path(folder: Path, caption: str) -> Path:
    """The file of a caption's text states; the name does not tell the caption."""
    return folder / "texts" / f"{hashlib.sha256(caption.encode()).hexdigest()[:32]}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], made_by: Mapping[str, str]) -> None:
    """Write one file of a cache with the fingerprints of the networks that made it; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as draft:
        save_file(whole, draft, {"made_by": json.dumps(dict(made_by), sort_keys=True)})


def has_tensors(path: Path, made_by: Mapping[str, str]) -> bool:
    """Whether a file of a cache is there, readable, and made by these networks; else it is to be made again."""
    try:
        with safe_open(path, framework="numpy") as file:
            return bool((file.metadata() or {}).get("made_by") == json.dumps(dict(made_by), sort_keys=True))
    except (OSError, SafetensorError):
        return False
