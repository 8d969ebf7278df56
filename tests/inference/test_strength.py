"""Video to video: a run that starts from a clip's latents, partly noised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lichtspiel import flow
from lichtspiel.inference.inputs import resolve_request
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.inference.preprocess import given_video
from lichtspiel.request import Request
from lichtspiel.seal import verify
from lichtspiel.workflows.generate import generate
from tests.footage.files import clip_file


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return clip_file(tmp_path, frames=5)


def asked(film: Path | None, **fields: Any) -> Request:
    options = {"seed": 3, "steps": 4, "guidance": 1.0, "dtype": "float32", "video": film, **fields}
    return resolve_request(prompt="a turtle", **options)[0]


def latents(pipeline: Pipeline, request: Request) -> torch.Tensor:
    *_, last = pipeline.denoise(pipeline.encode(request), request)
    assert (last.index, last.total) == (request.steps_taken, request.steps_taken)
    return last.latents


def test_the_weaker_it_is_the_nearer_is_the_clip(random_nano: Path, film: Path) -> None:
    request = asked(film, strength=0.5)
    assert request.task == "text"
    assert request.frames == 5
    pipeline = load(request, random_nano)
    conditions = pipeline.encode(request)
    assert conditions.start is not None
    results = {share: latents(pipeline, asked(film, strength=share, frames=5)) for share in (0.25, 0.5, 0.75)}
    off = [float((result - conditions.start).norm()) for result in results.values()]
    assert off == sorted(off)
    assert off[0] < 0.7 * off[-1]
    whole = latents(pipeline, asked(None, frames=5, strength=1.0))
    assert float((whole - conditions.start).norm()) > off[-1]


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpm++", "lcm"])
def test_it_starts_at_the_sigma_of_the_first_step_that_is_left(random_nano: Path, film: Path, solver: str) -> None:
    request = asked(film, strength=0.5, solver=solver)
    pipeline = load(request, random_nano)
    conditions = pipeline.encode(request)
    assert conditions.start is not None
    sigma = float(flow.schedule(request.solver, 4, request.shift)[2])
    noise = pipeline.noise(request)
    began: list[torch.Tensor] = []
    timesteps: list[float] = []
    network = pipeline._dit()
    hook = network.register_forward_pre_hook(
        lambda _, given: (began.append(given[0].clone()), timesteps.append(float(given[1][0])))[-1:] and None
    )
    latents(pipeline, request)
    hook.remove()
    assert torch.allclose(began[0][:, :16], (1 - sigma) * conditions.start + sigma * noise, atol=1e-6)
    assert timesteps[0] == pytest.approx(1000 * sigma, abs=1)
    assert len(timesteps) == 2


def test_guidance_counts_the_steps_that_are_left_out(random_nano: Path, film: Path) -> None:
    request = asked(film, strength=0.5, guidance=5.0, guidance_interval="0.5-0.75")
    pipeline = load(request, random_nano)
    latents(pipeline, request)
    assert pipeline.evaluations == (3, 4)


def test_the_clip_is_the_parent_and_the_result_a_composite(random_nano: Path, film: Path, tmp_path: Path) -> None:
    generate(asked(film, strength=0.5, frames=5), tmp_path / "out.mp4", weights=random_nano)
    said = verify(tmp_path / "out.mp4").credentials
    assert [(it.role, it.relationship) for it in said.ingredients] == [("video", "parentOf")]
    assert said.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert said.generation is not None
    assert said.generation["parameters"]["strength"] == 0.5


def test_the_model_sees_the_clip_at_its_size(film: Path) -> None:
    request, inputs = resolve_request(prompt="a turtle", video=film, strength=0.5, fit="pad")
    video = given_video(request, inputs)
    assert video.shape == (3, 5, 128, 128)
    assert video[:, 0, 0].max() < -0.95  # black above and below, with a little ringing where it is enlarged
