"""Conditions from pictures, against the official code."""

import pytest
import torch

from lichtspiel.conditioning import condition, fit, known_frames, resize
from lichtspiel.models.vae import VAE
from lichtspiel.spec import LATENT_MEAN, LATENT_STD
from tests.golden import golden, relative_error
from tests.models.test_vae import TINY


@pytest.fixture(scope="module")
def vae() -> VAE:
    vae = VAE(TINY, LATENT_MEAN, LATENT_STD)
    vae.load_state_dict(golden("vae_13frames").weights)
    return vae.requires_grad_(False)


@pytest.mark.parametrize("name", ["i2v_condition", "flf2v_condition"])
def test_as_the_official_code(vae: VAE, name: str) -> None:
    reference = golden(name)
    size = reference.config["width"], reference.config["height"]
    pictures = [resize(image, *size, antialias=False) for image in reference.inputs.values()]
    first, last = pictures[0], pictures[1] if len(pictures) == 2 else None
    ours = condition(vae, first, last, reference.config["frames"])
    assert relative_error(ours, reference.outputs["condition"]) < 1e-5


def test_mask_marks_the_first_and_the_last_frame() -> None:
    mask = known_frames(9, True, 1, 1)[:, :, 0, 0]
    assert mask.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert known_frames(9, False, 1, 1).sum() == 4


def test_fit_keeps_the_centre_and_the_aspect_ratio() -> None:
    image = torch.zeros(3, 40, 100)
    image[:, :, 30:70] = 1  # a square in the middle of a wide picture
    assert torch.allclose(fit(image, 16, 16, antialias=True), torch.ones(3, 16, 16))
