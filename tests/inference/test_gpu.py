"""The VAE as a GPU likes it against the plain one, on a processor: values, and the memory format on its way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils._triton
from torch import Tensor, nn

from lichtspiel.inference import norms, pipeline
from lichtspiel.inference.gpu import exact_convolutions, use_gpu_layout
from lichtspiel.inference.norms import fuse_norms, norm, unfit
from lichtspiel.models.vae import VAE, CausalConv3d, RMSNorm, rms_norm
from lichtspiel.request import Request
from lichtspiel.train.vae import placed
from tests.golden import relative_error
from tests.models.test_vae import TINY


@pytest.fixture(scope="module")
def plain() -> VAE:
    torch.manual_seed(0)
    return VAE(TINY).eval().requires_grad_(False)


def pixels(frames: int = 9) -> Tensor:
    return torch.rand((1, 3, frames, 16, 24), generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("chunk_frames", [4, 1])
@torch.inference_mode()
def test_the_layout_changes_no_value(plain: VAE, chunk_frames: int) -> None:
    vae = deepcopy(plain)
    use_gpu_layout(vae)
    plain.chunk_frames = vae.chunk_frames = chunk_frames
    latents = plain.encode(pixels())
    assert relative_error(vae.encode(pixels()), latents) < 1e-5
    exact, ours = (torch.cat(list(one.decode(latents)), dim=2) for one in (plain, vae))
    assert exact.shape == (1, 3, 9, 16, 24)
    assert relative_error(ours, exact) < 1e-5


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Inputs and weights of convolutions in another format, as they come. Convolutions return the format that cuDNN
    returns, which a processor's small ones do not."""
    found: list[str] = []

    def looked(convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, *more: Any, **named: Any) -> Tensor:
        for name, value in (("input", x), ("weight", weight)):
            if not value.is_contiguous(memory_format=FORMATS[value.dim()]):
                found.append(f"{name} {tuple(value.shape)} {value.stride()}")
        return convolve(x, weight, *more, **named).contiguous(memory_format=FORMATS[x.dim()])

    for name in ("conv2d", "conv3d"):
        monkeypatch.setattr(F, name, partial(looked, getattr(F, name)))
    return found


@torch.inference_mode()
def test_no_convolution_gets_another_format(plain: VAE, wrong: list[str]) -> None:
    vae = deepcopy(plain)
    use_gpu_layout(vae)
    vae.chunk_frames = 1  # single frames lose it most easily
    list(vae.decode(vae.encode(pixels())))
    assert wrong == []
    plain.encode(pixels(1))
    assert wrong  # so this test can fail


@torch.inference_mode()
def test_remembered_frames_keep_the_format(plain: VAE, wrong: list[str]) -> None:
    vae = deepcopy(plain)
    use_gpu_layout(vae)
    cache: dict[nn.Module, Tensor] = {}
    for _ in range(2):
        vae.decoder(vae.conv2(torch.randn(1, TINY.latent_channels, 1, 2, 3)), cache)
    remembered = [value for module, value in cache.items() if isinstance(module, CausalConv3d)]
    assert remembered
    assert all(value.is_contiguous(memory_format=torch.channels_last_3d) for value in remembered)
    assert wrong == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_the_model(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, 5, 96), generator=generator).to(dtype)
    gamma = torch.randn(96, generator=generator).to(dtype)
    ours = norm(x, gamma)
    assert ours.dtype == dtype
    exact = rms_norm(x.double(), gamma.double())
    assert relative_error(ours.double(), exact) < (1e-6 if dtype == torch.float32 else 3e-3)
    assert torch.equal(norm(torch.zeros(1, 96, dtype=dtype), gamma), torch.zeros(1, 96, dtype=dtype))


def test_float32_is_not_rounded_to_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_convolutions():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


NEEDS_TRITON = "triton is in the extra test-kernels, and on Linux only"

INTERPRETED = """
import json
from copy import deepcopy
import torch
from lichtspiel.inference.gpu import use_gpu_layout
from lichtspiel.inference.norms import LIMITS, error_of, fuse_norms
from lichtspiel.models.vae import VAE
from tests.golden import relative_error
from tests.models.test_vae import TINY

torch.manual_seed(0)
plain = VAE(TINY).eval()
for name, value in plain.named_parameters():
    if name.endswith("gamma"):
        torch.nn.init.normal_(value, mean=1, std=0.3)
said = {str(dtype): error_of(torch.device("cpu"), dtype) / limit for dtype, limit in LIMITS.items()}

video = torch.rand(1, 3, 5, 16, 24) * 2 - 1
fast = deepcopy(plain)
use_gpu_layout(fast, fused=True)
with torch.inference_mode():
    latents = plain.encode(video)
    said["encode"] = relative_error(fast.encode(video), latents)
    pixels = [torch.cat(list(vae.decode(latents)), dim=2) for vae in (plain, fast)]
    said["decode"] = relative_error(pixels[1], pixels[0])

trained = deepcopy(plain)
fuse_norms(trained)
for vae in (plain, trained):
    mean, _ = vae.moments(video)
    (vae.reconstruct(mean) - video).square().mean().backward()
gradients = {name: value.grad for name, value in plain.named_parameters() if value.grad is not None}
said["gradients"] = max(
    relative_error(value.grad, gradients[name]) for name, value in trained.named_parameters() if name in gradients
)
said["of norms"] = sum(name.endswith("gamma") for name in gradients)
print(json.dumps(said))
"""


def test_the_fused_norm_is_the_plain_one_forward_and_backward() -> None:
    pytest.importorskip("triton", reason=NEEDS_TRITON)
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.pop("of norms") > 10
    assert max(said.pop("encode"), said.pop("decode"), said.pop("gradients")) < 1e-4
    assert len(said) == 3
    assert all(0 < share < 1 for share in said.values())  # of the error that is accepted, by precision


def test_fused_norms_take_the_activation_with_them(plain: VAE) -> None:
    pytest.importorskip("triton", reason=NEEDS_TRITON)
    vae = deepcopy(plain)
    use_gpu_layout(vae, fused=True)
    fuse_norms(vae)  # changes nothing
    kinds = [type(module) for module in vae.modules()]
    assert nn.SiLU in [type(module) for module in plain.modules()]
    assert nn.SiLU not in kinds
    silu = [module.norm_fn.keywords["silu"] for module in vae.modules() if isinstance(module, RMSNorm)]  # type: ignore[attr-defined]
    assert silu.count(False) == 2  # of the attention in the middle of encoder and decoder
    assert vae.state_dict().keys() == plain.state_dict().keys()


CUDA = torch.device("cuda")


@pytest.fixture
def fresh() -> Any:
    unfit.cache_clear()
    yield
    unfit.cache_clear()


def test_norms_are_fused_only_where_the_kernel_is_right(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    assert unfit(torch.device("cpu")) == "the VAE's norms are fused on CUDA only"
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: False)
    assert "install triton" in str(unfit(CUDA))
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: True)

    def broken(device: torch.device, dtype: torch.dtype) -> float:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    for error_of, said in (
        (broken, r"cannot build .* \(RuntimeError: Failed to find C compiler\.\), so it is not used"),
        (lambda device, dtype: float("nan"), "off by nan% in float32"),
        (lambda device, dtype: 0.005, "off by 0.5% in float32"),
    ):
        unfit.cache_clear()
        monkeypatch.setattr(norms, "error_of", error_of)
        assert re.search(said, str(unfit(CUDA)))
    unfit.cache_clear()
    monkeypatch.setattr(norms, "error_of", lambda device, dtype: 1e-7)
    assert unfit(CUDA) is None


@pytest.mark.parametrize("reason", [None, "no Triton"])
def test_the_road_and_training_fuse_norms_on_a_gpu(
    reason: str | None, plain: VAE, random_nano: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if reason is None:
        pytest.importorskip("triton", reason=NEEDS_TRITON)
    made = pipeline.load(Request.of(prompt="a turtle", device="cpu"), random_nano)
    made.device = CUDA
    monkeypatch.setattr(pipeline, "unfit", lambda device: reason)
    monkeypatch.setattr("lichtspiel.train.vae.unfit", lambda device: reason)
    monkeypatch.setattr(VAE, "to", lambda vae, device: vae)
    for vae in (made._network("vae", lambda: deepcopy(plain)), placed(deepcopy(plain), "cuda")):
        assert any(isinstance(module, nn.SiLU) for module in vae.modules()) == (reason is not None)
    assert (reason or "") in capsys.readouterr().err
