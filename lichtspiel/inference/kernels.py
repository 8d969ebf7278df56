"""Which kernel computes the self-attention of a DiT, chosen by name and checked before it is trusted.

Only self-attention matters for speed: its work grows with the square of the tokens, 32,760 of them in 81 frames of
832x480. Cross-attention always uses PyTorch's own kernel. Faster kernels are packages that users install; each has one
function here, with the signature of `models.attention.attention`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from lichtspiel.errors import RequestError
from lichtspiel.models.attention import AttentionFn, attention
from lichtspiel.models.dit import DiT, SelfAttention

__all__ = ["AttentionName", "attention_for", "use_attention"]

AttentionName = Literal["sdpa", "flash3", "sage"]

PACKAGES: dict[str, tuple[str, str]] = {
    # name: (module, how to install it)
    "flash3": ("flash_attn_interface", "build it from the folder hopper of github.com/Dao-AILab/flash-attention"),
    "sage": ("sageattention", "pip install sageattention"),
}

LIMITS = {"sdpa": 0.02, "flash3": 0.02, "sage": 0.15}
"""The largest relative error that is accepted against float32, as a root mean square. In 16 bit PyTorch's kernel is off
by about 0.003; Sage multiplies queries and keys in 8 bit."""

TOKENS = 384
"""Tokens of the small input on which a kernel is checked: three blocks of the kernels above."""


def attention_for(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The kernel to use: the one named, or with "auto" the fastest exact one that is here.

    Raises RequestError for a kernel that is not installed, or that does not work on this device or in this precision.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    if name == "auto":
        return "flash3" if half and hopper and find_spec(PACKAGES["flash3"][0]) else "sdpa"
    if name in PACKAGES:
        module, how = PACKAGES[name]
        if find_spec(module) is None:
            raise RequestError("attention", name, f"it needs the package {module}; {how}", "sdpa")
        if not half or device.type != "cuda":
            raise RequestError("attention", name, "it runs on CUDA in bfloat16 or float16 only", "sdpa")
        if name == "flash3" and not hopper:
            raise RequestError("attention", name, "its kernels are for Hopper GPUs (compute capability 9)", "sdpa")
    return name


def use_attention(dit: DiT, name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Compute the self-attention of a DiT with a kernel, once it has shown on a small input that it can.

    Raises RequestError if its result is off by more than its limit, or not finite; where that is PyTorch's own kernel,
    it names the precision in which it works.
    """
    layers = [module for module in dit.modules() if isinstance(module, SelfAttention)]
    function = kernel(name)
    if layers:
        heads = layers[0].heads
        error = error_of(function, heads, dit.spec.width // heads, device, dtype)
        if not error <= LIMITS[name]:
            off = f"on this machine it is off by {error:.1%} on a small input"
            if name == "sdpa":
                precision = str(dtype).removeprefix("torch.")
                raise RequestError("dtype", precision, f"{off}: PyTorch's build is broken", "float32")
            raise RequestError("attention", name, f"{off}; its package or its build is broken", "sdpa")
    for layer in layers:
        layer.attention_fn = function


def kernel(name: str) -> AttentionFn:
    """The function that computes attention with a kernel, from [b, l, n, d] to the same shape."""
    return {"sdpa": attention, "flash3": flash3, "sage": sage}[name]


def flash3(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, /) -> Tensor:
    """FlashAttention-3 (arXiv:2407.08608)."""
    from flash_attn_interface import flash_attn_func

    assert bias is None, "only cross-attention has a bias"
    result = flash_attn_func(q, k, v)
    output: Tensor = result[0] if isinstance(result, tuple) else result  # early releases return the logits, too
    return output


def sage(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, /) -> Tensor:
    """SageAttention (arXiv:2410.02367), whose layout NHD is [b, l, n, d]."""
    from sageattention import sageattn

    assert bias is None, "only cross-attention has a bias"
    output: Tensor = sageattn(q, k, v, tensor_layout="NHD")
    return output


@torch.inference_mode()
def error_of(function: AttentionFn, heads: int, width: int, device: torch.device, dtype: torch.dtype) -> float:
    """The error of a kernel against float32, relative to the root mean square of the exact result; NaN stays NaN."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, TOKENS, heads, width)
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    exact = attention(q.float(), k.float(), v.float())
    return float((function(q, k, v).float() - exact).square().mean().sqrt() / exact.square().mean().sqrt())
