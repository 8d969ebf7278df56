"""The causal VAE against the official code, against diffusers, and against itself in chunks."""

from dataclasses import replace

import pytest
import torch

from lichtspiel.models.vae import VAE, Cache
from lichtspiel.spec import MODELS
from tests.golden import golden, relative_error

TINY = replace(MODELS["t2v-14b"].vae, width=8)


@pytest.fixture(scope="module")
def vae() -> VAE:
    vae = VAE(TINY)
    vae.load_state_dict(golden("vae_13frames").weights, strict=True)
    return vae.eval().requires_grad_(False)


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_encodes_and_decodes_as_the_official_code(vae: VAE, frames: int) -> None:
    reference = golden(f"vae_{frames}frames")
    latents = vae.encode(reference.inputs["video"])
    assert relative_error(latents, reference.outputs["latents"]) < 1e-5
    chunks = list(vae.decode(reference.outputs["latents"]))
    assert [chunk.shape[2] for chunk in chunks] == [1] + [4] * (frames // 4)
    assert relative_error(torch.cat(chunks, dim=2), reference.outputs["decoded"]) < 1e-5


def test_whole_video_at_once_equals_chunks(vae: VAE) -> None:
    """Training runs the whole clip at once; what it learns must hold in the streamed graph."""
    video = torch.rand(2, 3, 17, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole, _ = vae.moments(video)
    assert relative_error((whole - vae.mean) / vae.std, vae.encode(video)) < 1e-5
    pixels = vae.reconstruct(whole)
    streamed = torch.cat(list(vae.decode((whole - vae.mean) / vae.std)), dim=2)
    assert relative_error(pixels.clamp(-1, 1), streamed) < 1e-5


@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_fewer_frames_at_once_give_the_same(vae: VAE, chunk_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    video = torch.rand(1, 3, 9, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    latents = vae.encode(video)
    pixels = torch.cat(list(vae.decode(latents)), dim=2)
    monkeypatch.setattr(vae, "chunk_frames", chunk_frames)
    assert relative_error(vae.encode(video), latents) < 1e-5
    parts = list(vae.decode(latents))
    assert max(part.shape[2] for part in parts) == chunk_frames
    assert relative_error(torch.cat(parts, dim=2), pixels) < 1e-5


def test_the_past_is_never_changed_by_the_future(vae: VAE) -> None:
    video = torch.rand(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    changed = video.clone()
    changed[:, :, 5:] = 0
    assert torch.equal(vae.encode(video)[:, :, :2], vae.encode(changed)[:, :, :2])


def test_memory_between_chunks_does_not_grow(vae: VAE) -> None:
    cache: Cache = {}
    sizes = []
    for latent in torch.zeros(1, 16, 6, 2, 2).split(1, dim=2):
        vae.reconstruct(latent, cache)
        sizes.append(sum(kept.numel() for kept in cache.values()))
    assert sizes[1] == sizes[2] == sizes[5]


def test_an_even_number_of_frames_is_a_bug_of_the_caller(vae: VAE) -> None:
    with pytest.raises(AssertionError):
        vae.encode(torch.zeros(1, 3, 8, 16, 16))


def test_true_size_has_the_published_number_of_tensors() -> None:
    with torch.device("meta"):
        vae = VAE(MODELS["t2v-14b"].vae)
    assert len(vae.state_dict()) == 194
    assert sum(p.numel() for p in vae.parameters()) == 126_892_531
