"""From a folder to a cache, on networks with random weights: what is stored is what `generate` would compute."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lichtspiel.errors import InvalidInput, MediaError, OutputError, Refused
from lichtspiel.inference.conditioning import vace_context, video_of
from lichtspiel.inference.pixels import from_pixels
from lichtspiel.models.clip import preprocess
from lichtspiel.spec import MODELS, Model
from lichtspiel.tune import encode as encode_room
from lichtspiel.tune.cache import Cache, batches
from lichtspiel.tune.dataset import Bucket, DataOptions
from lichtspiel.tune.encode import Encoder, sample_bytes
from lichtspiel.tune.frames import frames_at
from lichtspiel.tune.prepare import Observe, encode, look_through, prepare
from lichtspiel.weights.checkpoint import Checkpoint, checkpoint
from tests.golden import relative_error
from tests.tune.caches import SHORT
from tests.tune.clips import half_mask, write_clip, write_frames, write_picture
from tests.tune.conftest import CONSENT

NANO = MODELS["nano"]
WIDE = (64, 48)
OPTIONS = DataOptions(frames=(5, 9), consent=CONSENT)


def cached(data: Path, weights: Path, folder: Path, row: Model = SHORT, options: DataOptions = OPTIONS) -> Cache:
    return prepare(data, row, checkpoint(row, weights), options, folder, device="cpu", observe=Observe())


def test_motion_keeps_its_speed(tmp_path: Path) -> None:
    frames = [np.full((32, 32, 3), 8 * number, np.uint8) for number in range(30)]
    clip = write_frames(tmp_path / "fast.mp4", frames, fps=30)
    levels = [round(frame.mean() / 8) for frame in frames_at(clip, 16)]
    assert len(levels) == 16
    assert levels == [int(number * 30 / 16) for number in range(16)]
    slow = [round(frame.mean() / 8) for frame in frames_at(clip, 16, rate=8)]
    assert slow[:6] == [0, 0, 1, 1, 2, 2]


def test_the_cache_holds_what_the_networks_say_of_the_frames(data: Path, short_nano: Path, tmp_path: Path) -> None:
    cache = cached(data, short_nano, tmp_path / "cache", replace(SHORT, sampling=NANO.sampling))
    assert [str(bucket) for bucket in cache.buckets] == ["128x128x9", "128x128x1"]
    rows = {Path(row.source).name: row for row in cache.rows}
    batch = cache.read([rows["red.mp4"], rows["green.mp4"]])
    files = checkpoint(SHORT, short_nano)
    vae = files.vae(torch.float32)
    frames = list(frames_at(data / "red.mp4", 8))[:9]
    video = torch.stack([from_pixels(frame) for frame in frames], dim=1)[None]
    with torch.inference_mode():
        assert relative_error(batch.latents[0], vae.encode(video)[0]) < 1e-4
        assert batch.first is not None
        assert batch.first_last is not None
        first, last = video[0, :, 0], video[0, :, -1]
        assert relative_error(batch.first[0], vae.encode(video_of(first, None, 9))[0]) < 1e-4
        assert relative_error(batch.first_last[0], vae.encode(video_of(first, last, 9))[0]) < 1e-4
        ids = torch.tensor([files.tokenizer()("a red square moves to the right")])
        states = files.umt5(torch.float32)(ids)
    assert relative_error(batch.text[:1, : states.shape[1]], states) < 2e-2  # bfloat16 where a processor has units
    assert cache.read([rows["yellow.png"]]).first is None
    assert cache.facts.consent == CONSENT
    assert len({row.key for row in cache.rows}) == 4


def test_an_interrupted_cache_goes_on_and_loads_no_network_when_it_is_whole(
    data: Path, short_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    files = checkpoint(SHORT, short_nano)
    surveyed = look_through(data, SHORT, files.tokenizer(), OPTIONS, Observe())
    read, seen = encode_room.read_sample, []

    def stopping(*args: object, **choices: object) -> object:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(args)
        return read(*args, **choices)  # type: ignore[arg-type]

    monkeypatch.setattr(encode_room, "read_sample", stopping)
    encoder = Encoder.of(SHORT, files, folder, "cpu")
    with pytest.raises(KeyboardInterrupt):
        encode(surveyed, encoder, OPTIONS, Observe())
    monkeypatch.setattr(encode_room, "read_sample", read)
    assert len(encoder.missing(surveyed.samples)) == 2
    encode(surveyed, encoder, OPTIONS, Observe())
    assert not encoder.missing(surveyed.samples)
    for network in ("vae", "umt5"):
        monkeypatch.setattr(Checkpoint, network, None)
    (data / "red.mp4").rename(data / "scarlet.mp4")
    (data / "red.txt").rename(data / "scarlet.txt")
    cache = cached(data, short_nano, folder, options=replace(OPTIONS, consent=None))  # said once
    assert cache.facts.consent == CONSENT
    assert len(next(batches(cache, 8, seed=0)).rows) >= 1


def test_other_weights_make_a_cache_anew(data: Path, short_nano: Path, tmp_path: Path) -> None:
    files = checkpoint(SHORT, short_nano)
    surveyed = look_through(data, SHORT, files.tokenizer(), OPTIONS, Observe())
    encoder = Encoder.of(SHORT, files, tmp_path / "cache", "cpu")
    encode(surveyed, encoder, OPTIONS, Observe())
    assert not encoder.missing(surveyed.samples)
    shipped = Encoder.of(NANO, checkpoint(NANO), tmp_path / "cache", "cpu")
    assert len(shipped.missing(surveyed.samples)) == 4


def test_a_model_of_other_tasks_gets_conditions_of_its_own(data: Path, short_nano: Path, tmp_path: Path) -> None:
    files = checkpoint(SHORT, short_nano)
    samples = look_through(data, SHORT, files.tokenizer(), OPTIONS, Observe()).samples
    first = Encoder.of(SHORT, files, tmp_path / "cache", "cpu")
    first.encode_samples(samples[:1], lambda stage, done: None)
    assert not first.missing(samples[:1])
    text_only = replace(first, row=replace(SHORT, tasks=frozenset({"text"})))
    assert text_only.missing(samples[:1]) == samples[:1]


def test_networks_leave_memory_when_they_have_encoded(
    data: Path, short_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.nn.Module]] = []
    for name in ("vae", "umt5"):
        load = getattr(Checkpoint, name)

        def loading(self: Checkpoint, *args: Any, load: Any = load, **choices: Any) -> torch.nn.Module:
            assert not any(network() is not None for network in made), "one network at a time"
            network: torch.nn.Module = load(self, *args, **choices)
            made.append(weakref.ref(network))
            return network

        monkeypatch.setattr(Checkpoint, name, loading)
    cached(data, short_nano, tmp_path / "cache")
    assert len(made) == 2
    assert not any(network() is not None for network in made)


def test_vace_learns_triples_of_video_mask_and_original(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_clip(folder / "a.mp4", 12, size=WIDE)
    write_clip(folder / "controls" / "a.mp4", 12, look=3, size=WIDE)
    write_frames(folder / "masks" / "a.mp4", [half_mask(WIDE)] * 12)
    write_picture(folder / "references" / "a.png", size=(40, 64))
    write_clip(folder / "b.mp4", 12, look=1, size=WIDE)
    write_picture(folder / "c.png", look=2)
    for name in "abc":
        (folder / f"{name}.txt").write_text("a square")
    cache = cached(folder, tiny_folders["tiny-vace"], tmp_path / "cache", MODELS["tiny-vace"])
    rows = {Path(row.source).name: row for row in cache.rows}
    batch = cache.read([rows["a.mp4"]])
    assert batch.latents.shape == (1, 16, 4, 6, 8)  # one reference and three of the video
    assert batch.vace is not None
    assert batch.vace.shape == (1, 96, 4, 6, 8)
    assert batch.vace[0, 32:, 0].eq(0).all()
    assert batch.vace[0, 32:, 1:, :, 4:].eq(1).all()
    assert batch.vace[0, 32:, 1:, :, :4].eq(0).all()
    free = cache.read([rows["b.mp4"]])
    vae = checkpoint(MODELS["tiny-vace"], tiny_folders["tiny-vace"]).vae(torch.float32)
    with torch.inference_mode():
        nothing = vace_context(vae, torch.zeros(1, 3, 9, 48, 64), torch.ones(9, 48, 64), [])
    assert free.vace is not None
    assert relative_error(free.vace, nothing) < 1e-4


def test_what_a_mask_makes_new_is_not_shown(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    for look in (0, 1):
        folder = tmp_path / f"data{look}"
        frames = [np.full((48, 64, 3), 90, np.uint8) for _ in range(9)]
        for number, frame in enumerate(frames):
            frame[:, 32:] = 20 * number + 60 * look  # only what the mask covers differs
            frame[:8, number : number + 8] = 250
        write_frames(folder / "a.mp4", frames)
        write_frames(folder / "masks" / "a.mp4", [half_mask(WIDE)] * 9)
        (folder / "a.txt").write_text("a square")
    options = replace(OPTIONS, frames=(9,))
    made = [
        cached(tmp_path / f"data{look}", tiny_folders["tiny-vace"], tmp_path / f"c{look}", MODELS["tiny-vace"], options)
        for look in (0, 1)
    ]
    first, second = (cache.read(cache.rows) for cache in made)
    assert first.vace is not None
    assert second.vace is not None
    assert relative_error(first.latents, second.latents) > 0.05
    assert relative_error(first.vace, second.vace) < 0.02  # lossy coding moves the rest a little


@pytest.mark.parametrize(("name", "images"), [("tiny-i2v", 1), ("tiny-flf2v", 2)])
def test_models_that_see_pictures_get_clip_features(
    tiny_folders: dict[str, Path], tmp_path: Path, name: str, images: int
) -> None:
    folder = tmp_path / "data"
    write_clip(folder / "a.mp4", 12, size=WIDE)
    (folder / "a.txt").write_text("a square")
    cache = cached(folder, tiny_folders[name], tmp_path / "cache", MODELS[name])
    batch = cache.read(cache.rows)
    assert batch.clip is not None
    assert batch.clip.shape == (images, 257, 16)
    known = batch.first if images == 1 else batch.first_last
    assert known is not None
    tower = checkpoint(MODELS[name], tiny_folders[name]).clip(torch.float32)
    picture = from_pixels(next(frames_at(folder / "a.mp4", 8)))
    with torch.inference_mode():
        expected = tower(preprocess(picture[None], 224))
    assert relative_error(batch.clip[:1], expected) < 2e-2


def test_weights_of_the_loss_are_means_over_cells(data: Path, short_nano: Path, tmp_path: Path) -> None:
    write_frames(data / "weights" / "red.mp4", [half_mask()] * 20)
    cache = cached(data, short_nano, tmp_path / "cache")
    (row,) = [row for row in cache.rows if row.source.endswith("red.mp4")]
    weight = cache.read([row]).weight
    assert weight is not None
    assert weight.shape == (1, 1, 3, 8, 8)
    assert weight[..., :3].max() < 0.1
    assert weight[..., 5:].min() > 0.9


def test_repeats_and_held_out_clips(data: Path, short_nano: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, held_out=1, repeats=3)
    cache = cached(data, short_nano, tmp_path / "cache", options=options)
    assert len(cache.select(held_out=True)) == 1
    assert all(row.repeats == 3 for row in cache.rows)
    with pytest.raises(InvalidInput, match="leaves nothing of 4 clips"):
        cached(data, short_nano, tmp_path / "cache", options=replace(OPTIONS, held_out=4))


def test_consent_is_asked_before_any_network_loads(
    data: Path, short_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for network in ("vae", "umt5"):
        monkeypatch.setattr(Checkpoint, network, None)
    with pytest.raises(Refused, match=r"consent to 4 of the files, such as .*; it is asked once"):
        cached(data, short_nano, tmp_path / "cache", options=replace(OPTIONS, consent=None))


def test_a_full_disk_is_told_before_any_network_loads(
    data: Path, short_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for network in ("vae", "umt5"):
        monkeypatch.setattr(Checkpoint, network, None)
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(encode_room.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(OutputError, match=r"needs 0.0 GB more and 0.0 GB are free; free some, or .* --cache"):
        cached(data, short_nano, tmp_path / "cache")


def test_the_size_of_a_sample_is_known_before_it_is_written(data: Path, short_nano: Path, tmp_path: Path) -> None:
    cached(data, short_nano, tmp_path / "cache")
    sizes = [path.stat().st_size for path in (tmp_path / "cache" / "samples").iterdir()]
    bucket = Bucket(width=64, height=64, frames=9)
    assert max(sizes) <= sample_bytes(SHORT, bucket) <= 1.2 * max(sizes) + 4096


def test_a_file_that_shrinks_meanwhile_is_told(data: Path, short_nano: Path, tmp_path: Path) -> None:
    files = checkpoint(SHORT, short_nano)
    surveyed = look_through(data, SHORT, files.tokenizer(), OPTIONS, Observe())
    write_clip(data / "red.mp4", 3)
    with pytest.raises(MediaError, match=r"red.mp4: has changed since it was read"):
        encode(surveyed, Encoder.of(SHORT, files, tmp_path / "cache", "cpu"), OPTIONS, Observe())
    assert not (tmp_path / "cache" / "index.json").exists()


def test_the_statement_is_only_for_the_user_and_in_the_facts(data: Path, short_nano: Path, tmp_path: Path) -> None:
    cached(data, short_nano, tmp_path / "cache")
    path = tmp_path / "cache" / "consent.json"
    assert json.loads(path.read_text())["consent"] == CONSENT
    assert path.stat().st_mode & 0o077 == 0
