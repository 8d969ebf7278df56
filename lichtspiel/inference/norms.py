"""The VAE's norms on a GPU: the fused kernel where Triton is, once it has shown on a small input that it works, else a
plain reduction and two products."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.models.vae import VAE, RMSNorm, rms_norm

__all__ = ["error_of", "fuse_norms", "norm", "unfit"]

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 0.01, torch.float16: 0.002}
"""The largest relative error that is accepted against float64, as a root mean square, in results and gradients. In
Triton's interpreter it is 1e-7, 0.004 and 0.0002."""

WIDTHS = (32, 96, 384)
"""Channels of the small input: a power of two, as nano has, and the first and last width of the published VAE."""


def norm(x: Tensor, gamma: Tensor) -> Tensor:
    """The VAE's `rms_norm` over the last dimension in plain PyTorch, summed in float32."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp(min=1e-12)
    result: Tensor = x * (len(gamma) ** 0.5 / length) * gamma
    return result.to(x.dtype)


def fuse_norms(vae: VAE) -> None:
    """Make the norms of a VAE use the fused kernel, which also does the SiLU behind a norm. Ask `unfit` first. Fusing
    twice changes nothing."""
    from lichtspiel.inference.norm_kernels import norm as fused

    for layers in [module for module in vae.modules() if isinstance(module, nn.Sequential)]:
        for number, (first, second) in enumerate(pairwise(layers)):
            if isinstance(first, RMSNorm) and isinstance(second, nn.SiLU):
                first.norm_fn = partial(fused, silu=True)
                layers[number + 1] = nn.Identity()
    for module in vae.modules():
        if isinstance(module, RMSNorm) and getattr(module.norm_fn, "func", None) is not fused:
            module.norm_fn = partial(fused, silu=False)


@cache
def unfit(device: torch.device) -> str | None:
    """None if the fused kernel computes on this device what the plain norm does, else why it is not used."""
    if device.type != "cuda":
        return "the VAE's norms are fused on CUDA only"
    from torch.utils._triton import has_triton

    if not has_triton():
        return "PyTorch finds no Triton here, so the VAE's norms are not fused; install triton"
    try:
        errors = {dtype: error_of(device, dtype) for dtype in LIMITS}
    except Exception as problem:  # Triton builds kernels when they are first used, and needs a C compiler for it
        said = (str(problem).splitlines() or [""])[0]
        return f"Triton cannot build the VAE's fused norm here ({type(problem).__name__}: {said}), so it is not used"
    for dtype, error in errors.items():
        if not error <= LIMITS[dtype]:
            name = str(dtype).removeprefix("torch.")
            return f"the VAE's fused norm is off by {error:.1%} in {name} on this machine, so it is not used"
    return None


@torch.inference_mode(False)
def error_of(device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative error of the fused kernel on a small input, with and without SiLU, in its results and both
    gradients; NaN stays NaN."""
    from lichtspiel.inference.norm_kernels import norm as fused

    draw = torch.Generator().manual_seed(0)
    worst = torch.zeros(())
    for width in WIDTHS:
        shape = (2, 3, 5, width)
        x = torch.randn(shape, generator=draw).to(device, dtype)
        slope = torch.randn(shape, generator=draw).to(device, dtype)
        gamma = (1 + 0.3 * torch.randn(width, generator=draw)).to(device, dtype)
        for silu in (False, True):
            with torch.enable_grad():
                ours, ours_of = x.clone().requires_grad_(), gamma.clone().requires_grad_()
                result = fused(ours, ours_of, silu)
                result.backward(slope)  # type: ignore[no-untyped-call]
                theirs, theirs_of = x.double().requires_grad_(), gamma.double().requires_grad_()
                exact = rms_norm(theirs, theirs_of)
                exact = F.silu(exact) if silu else exact
                exact.backward(slope.double())  # type: ignore[no-untyped-call]
            for found, wanted in ((result, exact), (ours.grad, theirs.grad), (ours_of.grad, theirs_of.grad)):
                assert found is not None
                assert wanted is not None
                error = (found.detach().double() - wanted.detach()).norm() / wanted.detach().norm()
                worst = torch.maximum(worst, error.float().cpu())
    return float(worst)
