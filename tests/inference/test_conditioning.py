"""Conditions from pictures and videos, against the official code."""

import pytest
import torch

from lichtspiel.inference.conditioning import (
    fit_frame,
    image_condition,
    known_frames,
    letterbox,
    mask_cells,
    match_aspect,
    parts_of,
    resize,
    vace_context,
    video_of,
)
from lichtspiel.models.vae import VAE
from tests.golden import golden, relative_error
from tests.models.test_vae import TINY


@pytest.fixture(scope="module")
def vae() -> VAE:
    vae = VAE(TINY)
    vae.load_state_dict(golden("vae_13frames").weights)
    return vae.requires_grad_(False)


@pytest.mark.parametrize("name", ["i2v_condition", "flf2v_condition"])
def test_as_the_official_code(vae: VAE, name: str) -> None:
    reference = golden(name)
    size = reference.config["width"], reference.config["height"]
    pictures = [resize(image, *size, antialias=False) for image in reference.inputs.values()]
    first, last = pictures[0], pictures[1] if len(pictures) == 2 else None
    ours = image_condition(vae, first, last, reference.config["frames"])
    assert relative_error(ours, reference.outputs["condition"]) < 1e-5


def test_known_pictures_and_videos_are_encoded_without_being_held_whole(vae: VAE) -> None:
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for last in (None, pictures[1]):
        parts = list(parts_of(pictures[0], last, 9, 4))
        assert [part.shape[2] for part in parts] == [1, 4, 4]
        video = video_of(pictures[0], last, 9)
        assert torch.equal(torch.cat(parts, dim=2), video)
        assert torch.equal(vae.encode_parts(iter(parts)), vae.encode(video))


def test_mask_marks_the_first_and_the_last_frame() -> None:
    mask = known_frames(9, True, 1, 1, 4)[:, :, 0, 0]
    assert mask.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert known_frames(9, False, 1, 1, 4).sum() == 4


def test_vace_context_as_the_official_code(vae: VAE) -> None:
    reference = golden("vace_context")
    given = reference.inputs
    references = [given[name][0, :, 0] for name in ("reference0", "reference1")]
    ours = vace_context(vae, given["video"], given["mask"][0, 0], references)
    assert relative_error(ours, reference.outputs["context"]) < 1e-5


def test_references_stand_in_front_in_their_order(vae: VAE) -> None:
    given = golden("vace_context").inputs
    references = [given[name][0, :, 0] for name in ("reference0", "reference1")]
    video, mask = given["video"], given["mask"][0, 0]
    alone = vace_context(vae, video, mask, [])
    both = vace_context(vae, video, mask, references)
    assert torch.equal(both[:, :, 2:], alone)
    for place, picture in enumerate(references):
        assert torch.equal(both[:, :16, place], vae.encode(picture[None, :, None])[:, :, 0])
    assert not both[:, 16:, :2].any()


def test_a_mask_becomes_cells_of_64_channels_and_keeps_every_fourth_frame() -> None:
    mask = torch.zeros(5, 16, 24)
    mask[:, 3, 17] = 1
    cells = mask_cells(mask, (4, 8, 8))
    assert cells.shape == (64, 2, 2, 3)
    assert cells[3 * 8 + 1, :, 0, 2].tolist() == [1, 1]
    assert cells.sum() == 2


@pytest.fixture
def wide() -> torch.Tensor:
    image = torch.zeros(3, 40, 100)
    image[:, :, 30:70] = 1  # a square in the middle of a wide picture
    return image


def test_crop_keeps_the_centre_and_the_aspect_ratio(wide: torch.Tensor) -> None:
    assert torch.equal(match_aspect(wide, 16, 16, "crop"), torch.ones(3, 40, 40))
    assert torch.allclose(fit_frame(wide, 16, 16, "crop")[:, :, 1:15], torch.ones(3, 16, 14), atol=0.05)


def test_pad_keeps_the_whole_and_stretch_its_pixels(wide: torch.Tensor) -> None:
    padded = match_aspect(wide, 16, 16, "pad")
    assert padded.shape == (3, 100, 100)
    assert torch.equal(padded[:, 30:70], wide)
    assert (padded[:, :30] == -1).all()
    assert torch.equal(match_aspect(wide, 16, 16, "stretch"), wide)
    assert fit_frame(wide, 32, 16, "stretch").shape == fit_frame(wide, 32, 16, "pad").shape == (3, 16, 32)


def test_what_the_grid_costs_is_squeezed_and_not_cut() -> None:
    image = torch.rand(3, 563, 1000)
    assert match_aspect(image, 832, 464, "crop", slack=16) is image
    assert match_aspect(image, 832, 464, "crop").shape == (3, 558, 1000)
    assert match_aspect(image, 832, 400, "crop", slack=16).shape[1] < 563


def test_a_reference_is_laid_whole_on_white(wide: torch.Tensor) -> None:
    laid = letterbox(wide, 50, 40)
    assert laid.shape == (3, 40, 50)
    assert (laid[:, :10] == 1).all()
    assert (laid[:, 30:] == 1).all()
    assert laid[:, 10:30].min() == 0
    assert letterbox(wide, 100, 40) is wide
