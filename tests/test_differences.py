"""Where Diffusers differs from the official code. Lichtspiel follows the official code; this says what that means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from lichtspiel import flow
from lichtspiel.inference.conditioning import vace_context
from lichtspiel.models.vae import VAE
from lichtspiel.spec import MODELS
from tests.golden import golden, relative_error
from tests.models.test_vae import TINY

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_the_grid_of_unipc() -> None:
    """Theirs starts at 1 and ends its line at 1/1000; ours, as the official one, starts at 0.999 and ends at 0."""
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers import UniPCMultistepScheduler

    theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    theirs.set_timesteps(20)
    reference = golden("unipc_20_3.0").outputs["sigmas"]
    ours = flow.schedule("unipc", 20, 3.0).float()
    assert torch.equal(ours, reference)
    assert float(theirs.sigmas[0]) == pytest.approx(1 - 1e-6, abs=1e-7)
    assert 1e-4 < relative_error(theirs.sigmas, reference) < 1e-2


class TheirVAE:
    """Our tiny VAE where their pipeline expects theirs, so that only what they do around it is compared."""

    dtype = torch.float32

    def __init__(self, vae: VAE) -> None:
        self.vae = vae
        self.config = type(
            "Config", (), {"latents_mean": TINY.latent_mean, "latents_std": TINY.latent_std, "z_dim": 16}
        )

    def encode(self, video: torch.Tensor) -> object:
        means, _ = self.vae.moments(video)
        return type("Encoded", (), {"latents": means})


@torch.inference_mode()
def test_the_order_of_references() -> None:
    """Theirs comes out reversed, because each one is put in front of those before it."""
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers import WanVACEPipeline

    vae = VAE(TINY)
    vae.load_state_dict(golden("vae_13frames").weights)
    reference = golden("vace_context")
    given = reference.inputs
    hats: Sequence[torch.Tensor] = [given[name][0, :, 0] for name in ("reference0", "reference1")]
    pipeline = WanVACEPipeline.__new__(WanVACEPipeline)
    object.__setattr__(pipeline, "vae", TheirVAE(vae))
    prepare = WanVACEPipeline.prepare_video_latents
    theirs, turned = (
        prepare(pipeline, given["video"], given["mask"].expand(-1, 3, -1, -1, -1), [list(order)], device="cpu")
        for order in (hats, hats[::-1])
    )
    official = reference.outputs["context"][:, :32]
    assert relative_error(vace_context(vae, given["video"], given["mask"][0, 0], hats)[:, :32], official) < 1e-5
    assert relative_error(turned, official) < 1e-5
    assert relative_error(theirs, official) > 0.1


def test_the_default_shift_of_vace() -> None:
    """Theirs is 3 in the example of their pipeline; `generate.py` sets 16 for VACE and for first and last frame."""
    pytest.importorskip("diffusers", reason="diffusers is in the extra test-peers")
    from diffusers.pipelines.wan import pipeline_wan_vace

    assert "flow_shift = 3.0" in pipeline_wan_vace.EXAMPLE_DOC_STRING
    assert {MODELS[name].sampling.shift for name in ("vace-1.3b", "vace-14b", "flf2v-14b")} == {16.0}
