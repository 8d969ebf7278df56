"""The embedded model: its files are whole and small, and it does what its card says it can."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from lichtspiel.pipeline import Pipeline, load
from lichtspiel.request import Request
from lichtspiel.spec import MODELS
from lichtspiel.train.editions import SMALL
from lichtspiel.weights.checkpoint import EMBEDDED
from lichtspiel.worlds.captions import LANGUAGES, caption
from lichtspiel.worlds.render import Clip, render
from lichtspiel.worlds.sample import sample

NANO = MODELS["nano"]
SEED = 20_000_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(Request.of(prompt="any"))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render(sample(SEED, SMALL.world, held_out=True), SEED, width=64, height=64, frames=17)


def psnr(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(-10 * np.log10(np.square((ours.astype(float) - reference) / 255).mean()))


def frames(pipeline: Pipeline, **fields: object) -> np.ndarray:
    request = Request.of(**{"seed": 7, "steps": 8, **fields})
    *_, last = pipeline.denoise(pipeline.encode(request), request)
    return np.stack(list(pipeline.decode(last.latents)))


def test_the_files_are_those_of_the_registry_and_small() -> None:
    paths = [EMBEDDED / name for name in NANO.files.values()]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert digests == NANO.digests
    assert sum(path.stat().st_size for path in paths) < 64_000_000


def test_it_knows_every_word_of_its_world(pipeline: Pipeline) -> None:
    for seed in range(SEED, SEED + 30):
        for language in LANGUAGES:
            assert pipeline.tokenizer.unknown_words(caption(sample(seed, SMALL.world), language, 0)) == []
    assert pipeline.tokenizer.unknown_words("a spaceship") == ["spaceship"]


def test_its_vae_knows_its_world(pipeline: Pipeline, clip: Clip) -> None:
    video = rearrange(torch.from_numpy(np.array(clip.frames)), "t h w c -> 1 c t h w").float() / 127.5 - 1
    latents = pipeline.vae.encode(video)
    assert psnr(np.stack(list(pipeline.decode(latents))), clip.frames) > 20
    assert 0.3 < float(latents.std()) < 3  # normalised by the statistics that came with the weights


def test_the_prompt_decides_what_is_seen(pipeline: Pipeline) -> None:
    """Under water is blue, a desert is not; places were learnt best of all."""
    water = frames(pipeline, prompt="a big whale swims to the left under water").astype(float).mean(axis=(0, 1, 2))
    desert = frames(pipeline, prompt="a taxi drives to the left in a sandy desert on a sunny day").astype(float)
    assert water[2] > water[0] + 30
    assert desert[:, 40:].mean(axis=(0, 1, 2))[0] > desert[:, 40:].mean(axis=(0, 1, 2))[2] + 30


def test_a_first_image_is_where_the_video_starts(pipeline: Pipeline, clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "first.png"
    Image.fromarray(clip.frames[0]).save(path)
    prompt = caption(clip.scene, "en", 0)
    given = psnr(frames(pipeline, prompt=prompt, image=path)[0], clip.frames[0])
    assert given > psnr(frames(pipeline, prompt=prompt)[0], clip.frames[0]) + 3
