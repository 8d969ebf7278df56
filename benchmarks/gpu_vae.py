"""The VAE's rows of `benchmarks.gpu`: decoding and encoding, and its norm by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lichtspiel.errors import LichtspielError
from lichtspiel.inference.gpu import exact_convolutions, use_gpu_layout
from lichtspiel.inference.norms import fuse_norms, norm, unfit
from lichtspiel.models.vae import VAE
from tests.golden import relative_error

if TYPE_CHECKING:
    from benchmarks.gpu import Bench


def vae(bench: Bench) -> None:
    """Decoding and encoding of at most 33 frames, in both precisions: in plain PyTorch, in channels-last, with fused
    norms, and by diffusers; and a norm by itself, with its gradients."""
    spec = bench.model("t2v-1.3b").vae
    frames = min(bench.frames, 33)
    width, height = bench.size
    draw = torch.Generator().manual_seed(1)
    shape = (1, spec.latent_channels, 1 + (frames - 1) // 4, height // 8, width // 8)
    latents = torch.randn(shape, generator=draw).to(bench.device)
    torch.manual_seed(0)
    network = VAE(spec).eval().to(bench.device)
    exact: dict[str, Tensor] = {}

    def ours(what: str, dtype: torch.dtype) -> str:
        network.to(dtype)
        video = torch.zeros(1, 3, frames, height, width, device=bench.device, dtype=dtype)
        work = {
            "decode": lambda: torch.cat([*network.decode(latents)], dim=2),
            "encode": lambda: network.encode(video),
        }[what]
        with exact_convolutions():
            result, seconds, peak = bench.measured(work)
        difference = relative_error(result, exact.setdefault(what, result))
        return f"{seconds:.3f} | {peak:.2f} | {difference:.1e} |"

    def others(dtype: torch.dtype) -> str:
        try:
            from diffusers import AutoencoderKLWan
        except ImportError as error:
            raise LichtspielError(f"not installed: {error.name}") from error
        other = AutoencoderKLWan(base_dim=spec.width).eval().to(bench.device, dtype)
        given = latents.to(dtype)
        _, seconds, peak = bench.measured(lambda: other.decode(given, return_dict=False)[0])
        return f"{seconds:.3f} | {peak:.2f} | other weights |"

    for what in ("decode", "encode"):
        bench.row(f"VAE, {what} {frames} frames, float32, plain", partial(ours, what, torch.float32))

    def fused(what: str, dtype: torch.dtype) -> str:
        if (reason := unfit(bench.device)) is not None:
            raise LichtspielError(reason)
        fuse_norms(network)
        return ours(what, dtype)

    use_gpu_layout(network)
    for title, way in (("", ours), (", fused norms", fused)):
        for what in ("decode", "encode"):
            for dtype in (torch.float32, torch.bfloat16):
                name = f"VAE, {what} {frames} frames, {dtype}{title}".replace("torch.", "")
                bench.row(name, partial(way, what, dtype))
    for dtype in (torch.float32, torch.bfloat16):
        bench.row(f"VAE, decode {frames} frames, {dtype}, diffusers".replace("torch.", ""), partial(others, dtype))


def norms(bench: Bench) -> None:
    """A norm with SiLU of the VAE's largest frames, forward and backward: plain, and fused."""
    width, height = bench.size
    frames = torch.randn((4, height, width, 96), device=bench.device).to(bench.dtype)
    gamma = torch.ones(96, device=bench.device, dtype=bench.dtype)

    def plain(x: Tensor, gamma: Tensor) -> Tensor:
        return nn.functional.silu(norm(x, gamma))

    def both_ways(function: Callable[[Tensor, Tensor], Tensor]) -> str:
        def work() -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                x, weight = frames.clone().requires_grad_(), gamma.clone().requires_grad_()
                function(x, weight).sum().backward()
            assert x.grad is not None
            return x.grad

        result, seconds, peak = bench.measured(work)
        return f"{seconds:.4f} | {peak:.2f} | {relative_error(result, bench.exact.setdefault('norm', result)):.1e} |"

    def fused() -> str:
        if (reason := unfit(bench.device)) is not None:
            raise LichtspielError(reason)
        from lichtspiel.inference.norm_kernels import norm as kernel

        return both_ways(partial(kernel, silu=True))

    bench.row("a norm and SiLU with their gradients, plain", partial(both_ways, plain))
    bench.row("a norm and SiLU with their gradients, fused", fused)
