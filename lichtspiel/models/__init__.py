"""The networks as plain `nn.Module`s for every device, and the parameters that a specification implies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias, overload

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lichtspiel.models.clip import CLIPVision
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import CLIPSpec, DiTSpec, UMT5Spec, VAESpec

__all__ = ["Spec", "build", "shapes"]

Spec: TypeAlias = DiTSpec | VAESpec | UMT5Spec | CLIPSpec

DRAWS = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
"""How layers draw the weights with which they begin."""


class Undrawn(TorchFunctionMode):
    """Leaves out the drawing of random numbers for tensors without memory.

    PyTorch writes that in Python. For normal numbers it loads its compiler, 900 modules, which takes every process that
    opens a model more than a second, and for uniform ones it takes a quarter of the time in which a network is built.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS:
            return kwargs["tensor"]
        return func(*args, **kwargs)


@overload
def build(spec: DiTSpec) -> DiT: ...
@overload
def build(spec: VAESpec) -> VAE: ...
@overload
def build(spec: UMT5Spec) -> UMT5: ...
@overload
def build(spec: CLIPSpec) -> CLIPVision: ...
def build(spec: Spec) -> DiT | VAE | UMT5 | CLIPVision:
    """The network of a specification on the meta device: parameters with names and shapes, but without memory."""
    with torch.device("meta"), Undrawn():
        if isinstance(spec, DiTSpec):
            return DiT(spec)
        if isinstance(spec, VAESpec):
            return VAE(spec)
        return UMT5(spec) if isinstance(spec, UMT5Spec) else CLIPVision(spec)


@lru_cache(maxsize=64)
def shapes(spec: Spec) -> Mapping[str, tuple[int, ...]]:
    """Every parameter of a network by name, in the order of the network, with its shape."""
    return {name: tuple(value.shape) for name, value in build(spec).named_parameters()}
