"""The whole road on small parts: against the official code end to end, and each promise of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lichtspiel import flow
from lichtspiel.errors import MediaError, NonFinite, RequestError, WeightsError
from lichtspiel.inference.device import choose_device
from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.request import Request
from lichtspiel.spec import MODELS, DiTSpec, UMT5Spec
from tests.golden import golden, relative_error
from tests.models.test_vae import TINY


@torch.inference_mode()
def test_text_to_video_as_the_official_code() -> None:
    reference = golden("text_to_video")
    dit_config, umt5_config = reference.config["dit"], reference.config["umt5"]
    umt5 = UMT5(
        UMT5Spec(
            vocabulary=umt5_config["vocab"], width=umt5_config["dim"], attention_width=umt5_config["dim_attn"],
            ffn_width=umt5_config["dim_ffn"], heads=umt5_config["num_heads"], layers=umt5_config["num_layers"],
            buckets=umt5_config["num_buckets"], max_distance=128, eps=1e-6,
        )
    )  # fmt: skip
    dit = DiT(
        DiTSpec(
            patch=(1, 2, 2), width=dit_config["dim"], ffn_width=dit_config["ffn_dim"], heads=dit_config["num_heads"],
            layers=dit_config["num_layers"], in_channels=16, out_channels=16, time_width=dit_config["freq_dim"],
            text_width=dit_config["text_dim"], text_length=dit_config["text_len"], image_tokens=0, image_width=1280,
            vace_layers=(), vace_channels=96, eps=1e-6,
        )
    )  # fmt: skip
    vae = VAE(TINY)
    for module, name in ((umt5, "umt5"), (dit, "dit_t2v"), (vae, "vae_13frames")):
        module.load_state_dict(golden(name).weights)
    texts = [umt5(reference.inputs[name]) for name in ("ids", "negative_ids")]

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return flow.guide(*(dit(latents, timestep, text) for text in texts), reference.config["guidance"])

    config = reference.config
    for _, step in flow.sample(velocity, reference.inputs["noise"], "unipc", config["steps"], config["shift"]):
        latents = step
    assert relative_error(latents, reference.outputs["latents"]) < 1e-4
    video = torch.cat(list(vae.decode(latents)), dim=2)
    assert relative_error(video, reference.outputs["video"]) < 1e-4


def request(**fields: object) -> Request:
    return Request.of(**{"prompt": "a turtle", "seed": 3, "steps": 2, "dtype": "float32", **fields})


def latents(pipeline: Pipeline, asked: Request) -> torch.Tensor:
    *_, last = pipeline.denoise(pipeline.encode(asked), asked)
    assert last.index == last.total == asked.steps
    return last.latents


@pytest.fixture(scope="module")
def pipeline(random_nano: Path) -> Pipeline:
    return load(request(device="cpu"), random_nano)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4}, {"steps": 4}, {"guidance": 4.0}, {"guidance": 1.0}, {"shift": 1.0}, {"solver": "unipc"},
        {"solver": "dpm++"}, {"frames": 5},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_changes_the_result(pipeline: Pipeline, change: dict[str, object]) -> None:
    # Three steps: in the first and in the last one every solver is of first order, which for DPM++ is Euler.
    base, other = latents(pipeline, request(steps=3)), latents(pipeline, request(**{"steps": 3, **change}))
    assert base.shape != other.shape or relative_error(other, base) > 3e-5


def test_prompt_and_negative_prompt_change_the_result(pipeline: Pipeline) -> None:
    base = latents(pipeline, request(prompt="a turtle"))
    assert not torch.allclose(base, latents(pipeline, request(prompt="the beach at night")))
    assert not torch.allclose(base, latents(pipeline, request(prompt="a turtle", negative="night")))


def test_words_that_the_model_does_not_know_are_named(pipeline: Pipeline) -> None:
    assert pipeline.tokenizer.unknown_words("a turtle on the spaceship") == ["spaceship"]


def test_the_same_seed_gives_the_same_latents(pipeline: Pipeline) -> None:
    assert torch.equal(latents(pipeline, request()), latents(pipeline, request()))


def test_images_change_the_result(pipeline: Pipeline, picture: Path) -> None:
    text = latents(pipeline, request())
    image = latents(pipeline, request(image=picture))
    both = latents(pipeline, request(image=picture, last_image=picture))
    assert not torch.allclose(text, image)
    assert not torch.allclose(image, both)


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpm++", "lcm"])
def test_a_given_first_picture_is_held(pipeline: Pipeline, picture: Path, solver: str) -> None:
    """The first latent frame is the picture's own, whatever the network says of it; the others are the network's."""
    asked = request(image=picture, solver=solver, steps=4, frames=9)
    conditions = pipeline.encode(asked)
    *_, last = pipeline.denoise(conditions, asked)
    assert conditions.image_condition is not None
    known = conditions.image_condition[:, -16:].to(last.latents)
    assert relative_error(last.latents[:, :, :1], known[:, :, :1]) < 1e-2  # UniPC takes whole timesteps
    assert relative_error(last.latents[:, :, 1:], known[:, :, 1:]) > 0.1


def test_published_models_are_sampled_as_published() -> None:
    """They guess the latent frame of a given picture like all others."""
    assert [name for name, row in MODELS.items() if row.sampling.holds_pictures] == ["nano"]


def test_one_batch_equals_two_passes(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    batched = latents(pipeline, request(negative="night"))
    monkeypatch.setattr("lichtspiel.inference.pipeline.BATCHED_TOKENS", 0)
    assert relative_error(latents(pipeline, request(negative="night")), batched) < 1e-4


@pytest.mark.parametrize("fastest", ["bfloat16", "float32"])
def test_auto_computes_in_what_the_processor_is_fastest_in(
    pipeline: Pipeline, random_nano: Path, processor: Callable[[str], None], fastest: str
) -> None:
    processor(fastest)
    asked = request(dtype="auto", device="cpu", frames=1, steps=1, guidance=1)
    made = load(asked, random_nano)
    assert (made.precision, made._dit().head.head.weight.dtype) == (fastest, getattr(torch, fastest))
    assert relative_error(latents(made, asked), latents(pipeline, asked)) < 2e-2


def test_without_guidance_the_negative_prompt_is_not_computed(pipeline: Pipeline) -> None:
    assert pipeline.encode(request(guidance=1.0)).negative is None


def test_decoding_yields_every_frame(pipeline: Pipeline) -> None:
    frames = list(pipeline.decode(torch.zeros(1, 16, 3, 8, 8)))
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * 9
    assert all(frame.dtype == np.uint8 for frame in frames)


def test_what_is_not_finite_is_named(pipeline: Pipeline) -> None:
    with pytest.raises(NonFinite, match="decoding"):
        list(pipeline.decode(torch.full((1, 16, 1, 8, 8), torch.nan)))


def test_a_text_file_is_no_image(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_text("not a picture")
    with pytest.raises(MediaError, match=r"image\.png"):
        pipeline.encode(request(image=path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="this machine has"):
        choose_device("cuda")


def test_a_checkpoint_that_does_not_ship_asks_for_its_folder() -> None:
    with pytest.raises(WeightsError, match=r"Wan-AI/Wan2\.1-T2V-1\.3B.*--weights"):
        load(request(model="t2v-1.3b"))
