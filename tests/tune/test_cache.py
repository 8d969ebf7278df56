"""The cache of a data set: what is written is read, batches never mix buckets, and batch n is a function of n."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch

from lichtspiel.errors import InvalidInput
from lichtspiel.tune.cache import (
    Cache,
    Facts,
    Row,
    batches,
    has_tensors,
    open_cache,
    sample_path,
    text_path,
    write_index,
    write_tensors,
)  # fmt: skip
from lichtspiel.tune.dataset import Bucket

MADE_BY = {"vae": "a", "umt5": "b"}
SMALL, LARGE = Bucket(width=16, height=32, frames=1), Bucket(width=32, height=16, frames=5)
ROWS = [Row(key=f"s{n}", bucket=SMALL, caption=f"picture {n}", source=f"{n}.png") for n in range(3)] + [
    Row(key="l0", bucket=LARGE, caption="a clip", source="clip.mp4", repeats=4),
    Row(key="l1", bucket=LARGE, caption="a clip", source="clip.mp4", held_out=True),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, row in enumerate(ROWS):
        cells = (1 + (row.bucket.frames - 1) // 4, row.bucket.height // 8, row.bucket.width // 8)
        tensors = {"latents": torch.full((16, *cells), float(number))}
        if row.bucket == LARGE:
            tensors["first"] = torch.ones(16, *cells)
            tensors["vace"], tensors["vace_mask"] = torch.ones(32, *cells), torch.ones(64, *cells).byte()
        if row.key == "s1":
            tensors["weight"] = torch.zeros(1, *cells)
        write_tensors(sample_path(tmp_path, row.key), tensors, MADE_BY)
        states = torch.ones(1, 1 + number, 8)
        write_tensors(text_path(tmp_path, row.caption), {"states": states}, MADE_BY)
    write_tensors(text_path(tmp_path, ""), {"states": torch.zeros(1, 1, 8)}, MADE_BY)
    write_index(tmp_path, Facts(model="nano", made_by=MADE_BY, digest="d", triggers=("ohwx",)), ROWS)
    return tmp_path


def test_a_cache_is_read_as_it_was_written(folder: Path) -> None:
    cache = open_cache(folder)
    assert cache.facts == Facts(model="nano", made_by=MADE_BY, digest="d", triggers=("ohwx",))
    assert list(cache.rows) == ROWS
    assert cache.buckets == [LARGE, SMALL]
    assert cache.empty.shape == (1, 1, 8)


def test_a_batch_pads_texts_and_joins_what_all_samples_have(folder: Path) -> None:
    cache = open_cache(folder)
    pictures = cache.read(cache.select(SMALL))
    assert pictures.latents.shape == (3, 16, 1, 4, 2)
    assert pictures.text.shape == (3, 3, 8)
    assert pictures.text[0].any(dim=1).tolist() == [True, False, False]
    assert pictures.first is pictures.vace is pictures.clip is None
    assert pictures.weight is not None
    assert pictures.weight.mean(dim=(1, 2, 3, 4)).tolist() == [1, 0, 1]
    clips = cache.read(cache.select(LARGE))
    assert clips.vace is not None
    assert clips.vace.shape == (1, 96, 2, 2, 4)
    assert clips.weight is None


def _names(cache: Cache, **choices: int) -> list[list[str]]:
    stream = batches(cache, 2, seed=1, **choices)  # type: ignore[arg-type]
    return [[row.key for row in batch.rows] for batch in itertools.islice(stream, 12)]


def test_an_epoch_has_every_sample_as_often_as_it_repeats_and_none_that_is_held_out(folder: Path) -> None:
    cache = open_cache(folder)
    epoch = list(itertools.islice(batches(cache, 2, seed=1), 4))
    assert Counter(row.key for batch in epoch for row in batch.rows) == {"s0": 1, "s1": 1, "s2": 1, "l0": 4}
    assert all({row.bucket for row in batch.rows} == {batch.bucket} for batch in epoch)
    assert len({tuple(map(tuple, _names(cache)[begin : begin + 4])) for begin in (0, 4, 8)}) == 3


def test_a_run_goes_on_with_the_batches_that_it_would_have_had(folder: Path) -> None:
    cache = open_cache(folder)
    assert _names(cache, start=5)[:7] == _names(cache)[5:]


def test_only_files_of_the_same_networks_count(folder: Path) -> None:
    path = sample_path(folder, "s0")
    assert has_tensors(path, MADE_BY)
    assert not has_tensors(path, MADE_BY | {"vae": "other"})
    path.write_bytes(path.read_bytes()[:-40])
    assert not has_tensors(path, MADE_BY)
    with pytest.raises(InvalidInput, match=r"s0.safetensors .* damaged; delete"):
        open_cache(folder).read(ROWS[:1])


def test_an_unfinished_cache_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no finished cache; run `lichtspiel tune check`"):
        open_cache(tmp_path)
