"""VACE and image models through the one road, on tiny random networks of their kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lichtspiel.errors import MediaError, RequestError
from lichtspiel.inference.inputs import resolve_request
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.media.video import read_video
from lichtspiel.models.clip import preprocess
from lichtspiel.request import Request
from lichtspiel.seal import verify
from lichtspiel.workflows.generate import decode, generate
from tests.golden import relative_error
from tests.inference.tiny import ROWS, registered
from tests.workflows.test_reseal import stamped


@pytest.fixture(scope="module")
def folders(random_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A folder of random weights for each tiny checkpoint."""
    with registered(random_nano, tmp_path_factory.mktemp, ROWS) as folders:
        yield folders


def files(path: Path, count: int, width: int = 64, height: int = 48, seed: int = 0) -> Path:
    path.mkdir()
    random = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path / f"{number:03d}.png")
    return path


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """A video, a mask of its left half, and two references."""
    video = files(tmp_path / "video", 9)
    files(tmp_path / "hats", 2, 40, 40, seed=1)
    mask = Image.new("L", (64, 48), "black")
    mask.paste(255, (0, 0, 32, 48))
    mask.save(tmp_path / "mask.png")
    hats = {name: tmp_path / "hats" / f"00{number}.png" for number, name in enumerate(("hat", "shoe"))}
    return {"video": video, "mask": tmp_path / "mask.png", **hats}


def asked(**fields: Any) -> Request:
    return Request.of(
        **{"prompt": "a turtle", "model": "tiny-vace", "seed": 3, "steps": 1, "dtype": "float32", **fields}
    )


def latents(pipeline: Pipeline, request: Request) -> torch.Tensor:
    *_, last = pipeline.denoise(pipeline.encode(request), request)
    return last.latents


def test_every_file_and_the_scale_change_the_result(folders: dict[str, Path], given: dict[str, Path]) -> None:
    pipeline = load(asked(), folders["tiny-vace"])
    video, mask, hat, shoe = (given[name] for name in ("video", "mask", "hat", "shoe"))
    results = [
        latents(pipeline, request)
        for request in (
            asked(),
            asked(video=video),
            asked(video=video, mask=mask),
            asked(video=video, mask=mask, context_scale=0.3),
            asked(references=[hat]),
            asked(references=[hat, shoe]),
            asked(references=[shoe, hat]),
        )
    ]
    assert {tuple(result.shape) for result in results} == {(1, 16, 3, 6, 8)}
    for number, one in enumerate(results):
        assert all(not torch.allclose(one, other) for other in results[:number]), number


def test_references_are_computed_along_and_left_out(folders: dict[str, Path], given: dict[str, Path]) -> None:
    request = asked(references=[given["hat"], given["shoe"]])
    pipeline = load(request, folders["tiny-vace"])
    conditions = pipeline.encode(request)
    assert conditions.vace is not None
    assert conditions.vace.shape == (1, 96, 5, 6, 8)
    assert not conditions.vace[:, 32:, :2].any()
    assert (conditions.vace[:, 32:, 2:] == 1).all()
    assert pipeline.noise(request).shape == (1, 16, 5, 6, 8)
    assert len(list(pipeline.decode(latents(pipeline, request)))) == 9


def test_one_batch_equals_two_passes(
    folders: dict[str, Path], given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(references=[given["hat"]], video=given["video"], context_scale=0.7, negative="night")
    pipeline = load(request, folders["tiny-vace"])
    batched = latents(pipeline, request)
    monkeypatch.setattr("lichtspiel.inference.pipeline.BATCHED_TOKENS", 0)
    assert relative_error(latents(pipeline, request), batched) < 1e-4


def test_the_whole_road_records_what_it_was_made_from(
    folders: dict[str, Path], given: dict[str, Path], tmp_path: Path
) -> None:
    request = asked(video=given["video"], mask=given["mask"], references=[given["hat"], given["shoe"]], fit="stretch")
    result = generate(request, tmp_path / "out.mp4", weights=folders["tiny-vace"])
    assert len(list(read_video(tmp_path / "out.mp4"))) == 9
    said = verify(tmp_path / "out.mp4").credentials
    relations = {it.role: it.relationship for it in said.ingredients}
    assert relations == dict.fromkeys(("mask", "reference-1", "reference-2"), "inputTo") | {"video": "parentOf"}
    assert said.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert said.generation is not None
    assert said.generation["parameters"]["context_scale"] == 1.0
    assert str(tmp_path) not in json.dumps(dict(said.generation))
    assert decode(result.latents, tmp_path / "again.mp4", weights=folders["tiny-vace"]).request == request


def heard(path: Path) -> tuple[float, list[float]]:
    """How long the sound of a file is, in seconds, and its loudness in each quarter."""
    with av.open(str(path)) as file:
        pieces = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
        rate = file.streams.audio[0].rate
    samples = np.concatenate(pieces)
    return len(samples) / rate, [float(np.abs(part).mean()) for part in np.array_split(samples, 4)]


def test_sound_is_kept_on_request_beside_its_pictures(folders: dict[str, Path], tmp_path: Path) -> None:
    video = stamped(tmp_path / "v.mp4", [40 * number for number in range(75)], loud_from=1.5)  # 3 s, 25 per second
    request, _ = resolve_request(
        prompt="a turtle", model="tiny-vace", seed=3, steps=1, dtype="float32", video=video, size="64x48",
        pace="real", video_start=1, frames=9, sound=True,
    )  # fmt: skip
    result = generate(request, tmp_path / "out.mp4", weights=folders["tiny-vace"])
    seconds, loudness = heard(tmp_path / "out.mp4")
    assert seconds == pytest.approx(9 / 8, abs=0.05)
    assert loudness[1] < 0.05 < loudness[2]  # it gets loud 0.5 s after the start
    said = verify(tmp_path / "out.mp4").credentials
    assert said.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert decode(result.latents, tmp_path / "again.mp4", weights=folders["tiny-vace"]).request == request
    assert heard(tmp_path / "again.mp4")[0] == seconds
    silent = stamped(tmp_path / "s.mp4", [40 * number for number in range(75)], sound=False)
    with pytest.raises(MediaError, match=r"s\.mp4: has no sound that could be kept"):
        generate(request.model_copy(update={"video": silent}), tmp_path / "no.mp4", weights=folders["tiny-vace"])
    with pytest.raises(RequestError, match="is a picture, which has no sound"):
        generate(request.model_copy(update={"frames": 1}), tmp_path / "no.png", weights=folders["tiny-vace"])


@pytest.mark.parametrize(("name", "frames"), [("tiny-i2v", 9), ("tiny-i2v", 5), ("tiny-flf2v", 5), ("tiny-flf2v", 17)])
def test_image_models_take_every_number_of_frames(
    folders: dict[str, Path], given: dict[str, Path], name: str, frames: int
) -> None:
    last = {"last_image": given["shoe"]} if name == "tiny-flf2v" else {}
    request = asked(model=name, image=given["hat"], frames=frames, **last)
    pipeline = load(request, folders[name])
    conditions = pipeline.encode(request)
    assert conditions.image_condition is not None
    assert conditions.clip is not None
    assert conditions.image_condition.shape == (1, 20, 1 + frames // 4, 6, 8)
    assert conditions.clip.shape == (1 + len(last), 257, 16)
    ends = conditions.image_condition[0, :4, [0, -1], 0, 0].T.tolist()
    assert ends == [[1, 1, 1, 1], [0, 0, 0, 1 if last else 0]]
    assert latents(pipeline, request).shape == (1, 16, 1 + frames // 4, 6, 8)


def test_clip_sees_the_picture_at_its_own_resolution(folders: dict[str, Path], given: dict[str, Path]) -> None:
    request = asked(model="tiny-i2v", image=given["hat"], fit="stretch")
    pipeline = load(request, folders["tiny-i2v"])
    pixels = torch.from_numpy(np.array(Image.open(given["hat"]))).permute(2, 0, 1)[None] / 127.5 - 1
    seen = pipeline.encode(request).clip
    assert seen is not None
    assert torch.allclose(seen, pipeline.checkpoint.clip(pipeline.dtype)(preprocess(pixels, 224)), atol=1e-5)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_fit_changes_the_result(folders: dict[str, Path], given: dict[str, Path], fit: str) -> None:
    for name, field in (("tiny-i2v", {"image": given["hat"]}), ("tiny-vace", {"video": given["video"]})):
        base = asked(model=name, size="48x64", **field)
        pipeline = load(base, folders[name])
        assert not torch.allclose(latents(pipeline, base), latents(pipeline, base.model_copy(update={"fit": fit})))


def test_a_picture_leaves_sealed(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    result = generate(asked(model="tiny-t2i", size="64x48"), out, weights=folders["tiny-t2i"])
    assert (result.sealed.frames, result.sealed.fps, result.request.frames) == (1, 0, 1)
    report = verify(out)
    assert report.credentials.here
    assert report.record is not None
    assert report.record.id == result.sealed.id
    with Image.open(out) as picture:
        assert picture.size == (64, 48)
    decode(result.latents, tmp_path / "again.png", weights=folders["tiny-t2i"])
    assert (tmp_path / "again.png").is_file()
