"""The embedded model: its files are whole and small, and it does what its card says it can."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.request import Request
from lichtspiel.spec import MODELS
from lichtspiel.toybox.captions import LANGUAGES, caption
from lichtspiel.toybox.render import Clip, render
from lichtspiel.toybox.sample import sample
from lichtspiel.train.nano.variants import STANDARD
from lichtspiel.weights.checkpoint import EMBEDDED

NANO = MODELS["nano"]
SEED = 20_000_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(Request.of(prompt="any"))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render(sample(SEED, STANDARD.world, held_out=True), SEED, width=128, height=128, frames=5)


def psnr(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(-10 * np.log10(np.square((ours.astype(float) - reference) / 255).mean()))


def frames(pipeline: Pipeline, **fields: object) -> np.ndarray:
    request = Request.of(**{"seed": 7, "steps": 8, "frames": 5, **fields})
    *_, last = pipeline.denoise(pipeline.encode(request), request)
    return np.stack(list(pipeline.decode(last.latents)))


def test_the_files_are_those_of_the_registry_and_small() -> None:
    paths = [path for pattern in NANO.files.values() for path in EMBEDDED.glob(pattern)]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert digests == NANO.digests
    assert sum(path.stat().st_size for path in paths) < 70_000_000
    assert max(path.stat().st_size for path in paths) < 20_000_000


def test_it_knows_every_word_of_its_world(pipeline: Pipeline) -> None:
    for seed in range(SEED, SEED + 30):
        for language in LANGUAGES:
            assert pipeline.tokenizer.unknown_words(caption(sample(seed, STANDARD.world), language, 0)) == []
    assert pipeline.tokenizer.unknown_words("a chessboard") == ["chessboard"]


def test_its_vae_knows_its_world(pipeline: Pipeline, clip: Clip) -> None:
    video = rearrange(torch.from_numpy(np.array(clip.frames)), "t h w c -> 1 c t h w").float() / 127.5 - 1
    latents = pipeline.checkpoint.vae(torch.float32).encode(video)
    assert psnr(np.stack(list(pipeline.decode(latents))), clip.frames) > 25
    assert 0.3 < float(latents.std()) < 3  # normalized by the statistics that came with the weights


def test_the_prompt_decides_the_place(pipeline: Pipeline) -> None:
    """Under water is blue, a meadow is green, snow is neither."""
    water = frames(pipeline, prompt="a big whale swims to the left under water").astype(float).mean(axis=(0, 1, 2))
    snow, meadow = (
        frames(pipeline, prompt=f"a helicopter flies to the left over a {place} on a sunny day")[:, 88:].astype(float)
        for place in ("snowy field", "green meadow")
    )
    assert water[2] > water[0] + 30
    assert greener(meadow) > 40
    assert abs(greener(snow)) < 20


def greener(video: np.ndarray) -> float:
    red, green, blue = video.mean(axis=(0, 1, 2))
    return float(green - (red + blue) / 2)


@pytest.mark.parametrize("seed", [7, 8])
def test_the_prompt_decides_the_subject(pipeline: Pipeline, seed: int) -> None:
    """With one seed, a fire engine is red and a taxi is not."""
    prompt = "a big {} drives to the left on a road on a sunny day"
    engine, taxi = (
        frames(pipeline, prompt=prompt.format(subject), seed=seed).astype(float) for subject in ("fire engine", "taxi")
    )
    assert redness(engine) > 2 * redness(taxi)


def redness(video: np.ndarray) -> float:
    """The share of pixels that are clearly red."""
    return float((video[..., 0] - video[..., 1] > 60).mean())


def test_a_first_image_is_where_the_video_starts(pipeline: Pipeline, clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "first.png"
    Image.fromarray(clip.frames[0]).save(path)
    prompt = caption(clip.scene, "en", 0)
    given = psnr(frames(pipeline, prompt=prompt, image=path)[0], clip.frames[0])
    assert given > psnr(frames(pipeline, prompt=prompt)[0], clip.frames[0]) + 6
