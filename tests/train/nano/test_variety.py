"""Clips that are all alike are told from clips that differ as much as renders do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lichtspiel.spec import MODELS
from lichtspiel.toybox.sample import sample
from lichtspiel.train.data import Shape
from lichtspiel.train.nano.variants import STANDARD
from lichtspiel.train.nano.variety import rendered, spread, variety
from lichtspiel.train.vae import blank_vae


def test_spread_is_the_distance_of_pairs() -> None:
    assert spread(torch.zeros(3, 2, 2)) == 0
    assert spread(torch.stack([torch.zeros(2, 2), torch.full((2, 2), 3.0)])) == pytest.approx(3)
    torch.manual_seed(0)
    assert spread(torch.randn(6, 4000)) == pytest.approx(2**0.5, rel=0.02)


def test_renders_of_one_scene_differ_and_copies_do_not() -> None:
    torch.manual_seed(0)
    vae = blank_vae(MODELS["nano"].vae)
    scene, shape = sample(1, STANDARD.world), Shape(width=32, height=32, frames=5)
    real = rendered(scene, range(4), shape)
    assert real.shape == (4, 5, 32, 32, 3)
    assert variety(vae, [real], [real]) == 1
    assert variety(vae, [np.repeat(real[:1], 4, axis=0)], [real]) == pytest.approx(0, abs=1e-3)
    half = np.concatenate([real[:2], real[:2]])
    assert 0.2 < variety(vae, [half], [real]) < 1
