"""Attaching LoRAs to a DiT: merged into its weights, or added to its layers' outputs from outside, and removed again.

Both ways compute the same, which a test checks. Merging happens in float32 with one rounding at the end, however
many LoRAs there are. Unmerged, the weights stay as they are, so that they may be quantized; the pairs are kept in
the precision of the layer's output, which is float32 where the model computes in float32. What is small (norms,
modulations) is exchanged whole when its module is called, so that it is found again when weights are streamed.

Attach LoRAs last, after weights are quantized and loaded: both replace the modules that carry the hooks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.errors import RequestError, WeightsError
from lichtspiel.lora.adapter import Delta, LoRA, Report, match, parameter
from lichtspiel.lora.dora import row_lengths
from lichtspiel.models import shapes
from lichtspiel.models.dit import DiT
from lichtspiel.spec import DiTSpec

__all__ = ["apply", "merged", "prepare", "remove"]

MERGEABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Change = tuple[Delta, float]
"""A layer's change and its strength."""

_ATTACHED: WeakKeyDictionary[nn.Module, dict[str, LoRAHook | ParameterSwap]] = WeakKeyDictionary()
"""What is attached to each model, by the layer or the small parameter that it changes."""


def apply(dit: DiT, loras: Sequence[tuple[LoRA, float]], *, merge: bool, partial: bool = False) -> list[Report]:
    """Attach LoRAs to a model, each with its strength: into the weights for good, or as hooks until `remove`.

    All are checked before anything is changed. Raises WeightsError when a LoRA matches no layer, or not every layer
    unless `partial`; when weights to be merged into are quantized or absent; and when merging meets unmerged LoRAs.
    """
    for lora, strength in loras:
        if not math.isfinite(strength):
            raise RequestError("lora", strength, f"the strength of {lora.path.name} has to be a finite number", 1.0)
    reports = [match(lora, dit) for lora, _ in loras]
    for report in reports:
        report.check(partial=partial)
    changes: dict[str, list[Change]] = defaultdict(list)
    for (lora, strength), report in zip(loras, reports, strict=True):
        for layer in report.matched:
            changes[layer].append((lora.layers[layer], strength))
    if merge:
        _merge(dit, changes)
    else:
        _attach(dit, changes)
    return reports


def remove(dit: DiT) -> None:
    """Detach every LoRA that was attached unmerged; the model then computes exactly what it did before."""
    for hook in _ATTACHED.pop(dit, {}).values():
        hook.remove()


def prepare(dit: DiT, device: torch.device, dtype: torch.dtype) -> None:
    """Prepare what is attached unmerged to a model's blocks for a device and a precision. Otherwise their first call
    does, and blocks that are compiled would be compiled once more in the second."""
    for name, hook in _ATTACHED.get(dit, {}).items():
        if isinstance(hook, LoRAHook) and name.startswith(("blocks.", "vace_blocks.")):
            hook.prepare(device, dtype)


def merged(
    weights: Mapping[str, Tensor], spec: DiTSpec, loras: Sequence[tuple[LoRA, float]], *, partial: bool = False
) -> Mapping[str, Tensor]:
    """A model's weights with LoRAs in them, those that change in float32; each tensor is made when it is asked for, and
    no model is built.

    Raises WeightsError as `apply` does.
    """
    changes: dict[str, list[Change]] = defaultdict(list)
    for lora, strength in loras:
        report = match(lora, spec)
        report.check(partial=partial)
        for layer in report.matched:
            changes[layer].append((lora.layers[layer], strength))
    layers = {name: layer for layer, several in changes.items() for name in _touched(layer, several)}
    return _Merged(weights, {name: (layer, changes[layer]) for name, layer in layers.items()})


class _Merged(Mapping[str, Tensor]):
    """Weights, some of which are changed when they are read."""

    def __init__(self, weights: Mapping[str, Tensor], changes: Mapping[str, tuple[str, list[Change]]]) -> None:
        self.weights, self.changes = weights, changes

    def __getitem__(self, name: str) -> Tensor:
        value = self.weights[name]
        if name not in self.changes:
            return value
        layer, several = self.changes[name]
        with torch.no_grad():
            return _changed(layer, name, value.float(), several)

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


@torch.no_grad()
def _merge(dit: DiT, changes: Mapping[str, list[Change]]) -> None:
    if dit in _ATTACHED:
        raise WeightsError("a LoRA cannot be merged while others are attached unmerged; remove them first")
    parameters = dict(dit.named_parameters())
    for layer, several in changes.items():
        for name in _touched(layer, several):
            weight = parameters.get(name)
            if weight is None or weight.dtype not in MERGEABLE or weight.is_meta:
                kind = "not there" if weight is None or weight.is_meta else f"in {weight.dtype}"
                raise WeightsError(f"{name} is {kind}, so no LoRA can be merged into it; attach it with merge=False")
    for layer, several in changes.items():
        for name in _touched(layer, several):
            parameters[name].copy_(_changed(layer, name, parameters[name], several))


def _touched(layer: str, several: Sequence[Change]) -> list[str]:
    """The parameters of a layer that its changes change."""
    weight = any(delta.down is not None or delta.diff is not None for delta, _ in several)
    bias = any(delta.bias is not None for delta, _ in several)
    return [parameter(layer)] * weight + [f"{layer}.bias"] * bias


def _changed(layer: str, name: str, value: Tensor, several: Sequence[Change]) -> Tensor:
    """A parameter after its changes, in the precision it had; float32 in between, or float64 if that is its own."""
    total = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
    for delta, strength in several:
        if name != parameter(layer):
            if delta.bias is not None:
                total += strength * delta.bias.to(total)
            continue
        if delta.magnitude is not None and (pair := delta.matrix(1.0)):
            down, up = (matrix.to(total) for matrix in pair)
            directed = value.to(total) + up @ down
            lengths = torch.linalg.vector_norm(directed, dim=1)
            directed *= (delta.magnitude.to(total) / lengths)[:, None]
            total += strength * (directed - value.to(total))
        elif pair := delta.matrix(strength):
            down, up = (matrix.to(total) for matrix in pair)
            total += (up @ down).view_as(total)
        if delta.diff is not None:
            total += strength * delta.diff.to(total)
    return total.to(value.dtype)


def _attach(dit: DiT, changes: Mapping[str, list[Change]]) -> None:
    hooks = _ATTACHED.setdefault(dit, {})
    have = shapes(dit.spec)
    for layer, several in changes.items():
        whole = len(have[parameter(layer)]) == 1 or parameter(layer) == layer
        for name in _touched(layer, several) if whole else [layer]:
            if name in hooks:
                hooks[name].more(several)
            elif whole:
                hooks[name] = ParameterSwap(dit.get_submodule(name.rpartition(".")[0]), layer, name, several)
            else:
                patch = dit.spec.patch if len(have[parameter(layer)]) > 2 else None
                module = dit.get_submodule(layer)
                if not isinstance(module, nn.Linear) and any(delta.magnitude is not None for delta, _ in several):
                    raise WeightsError(
                        f"{layer} is in eight bit, and DoRA needs weights that it can read; use another --dtype"
                    )
                hooks[name] = LoRAHook(module, several, patch)


class ParameterSwap:
    """A hook before a module's call that swaps one small parameter for a changed copy, again whenever the parameter is
    another one, as in every call when weights are streamed."""

    def __init__(self, module: nn.Module, layer: str, name: str, several: Sequence[Change]) -> None:
        self.layer, self.name, self.several = layer, name, list(several)
        self.last = name.rpartition(".")[2]
        self.module = module
        self.before: nn.Parameter | None = None
        self.after: nn.Parameter | None = None
        self.handle = module.register_forward_pre_hook(self)

    @torch.no_grad()
    def __call__(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        """Make sure that the module computes with the changed parameter."""
        current = module.get_parameter(self.last)
        if current is not self.after:
            changed = _changed(self.layer, self.name, current.detach(), self.several)
            self.before, self.after = current, nn.Parameter(changed, requires_grad=current.requires_grad)
            setattr(module, self.last, self.after)

    def more(self, several: Sequence[Change]) -> None:
        """Change the parameter further."""
        self._give_back()
        self.several += several

    def remove(self) -> None:
        """Restore the original parameter."""
        self._give_back()
        self.handle.remove()

    def _give_back(self) -> None:
        if self.after is not None and self.module.get_parameter(self.last) is self.after:
            setattr(self.module, self.last, self.before)


class LoRAHook:
    """A forward hook of a linear layer or a patch embedding: adds what the changes of its weight and bias make of its
    input. It works with weights of any kind, because it never reads them."""

    def __init__(self, module: nn.Module, several: Sequence[Change], patch: tuple[int, int, int] | None) -> None:
        self.several = list(several)
        self.patch = patch
        self.cached: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, ...]]] = {}
        self.cached_bias: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.directed: list[Directed] = []
        self.handle = module.register_forward_hook(self)

    def more(self, several: Sequence[Change]) -> None:
        """Add further changes."""
        self.several += several
        self.cached, self.cached_bias = {}, {}

    def remove(self) -> None:
        """Detach the hook, so that the layer's output is its own again."""
        self.handle.remove()

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return `output` with the changes added; pairs follow its device and precision and stay there."""
        target = (output.device, output.dtype)
        if target not in self.cached:
            self.prepare(*target)
        x = inputs[0].to(output.dtype)
        plain = output
        for first, *rest in self.cached[target]:
            h = F.conv3d(x, first, stride=self.patch) if self.patch else F.linear(x, first)
            for matrix in rest:
                h = F.conv3d(h, matrix[..., None, None, None]) if self.patch else F.linear(h, matrix)
            output = output + h
        for change in self.directed:
            output = output + change(module, x, plain)
        if target in self.cached_bias:
            bias = self.cached_bias[target]
            output = output + (bias[:, None, None, None] if self.patch else bias)
        return output

    @torch.no_grad()
    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Prepare the changes for one device and precision, with their scales applied; release all others."""
        chains: list[tuple[Tensor, ...]] = []
        total: Tensor | None = None
        self.directed = []
        for delta, strength in self.several:
            if delta.magnitude is not None and (pair := delta.matrix(1.0)):
                down, up = (part.to(device, dtype) for part in pair)
                self.directed.append(Directed(down, up, delta.magnitude.to(device, torch.float32), strength))
            elif pair := delta.matrix(strength):
                down, up = pair
                if self.patch:
                    down = down.view(len(down), -1, *self.patch)
                chains.append((down.to(device, dtype), up.to(device, dtype)))
            if delta.diff is not None:
                chains.append(((strength * delta.diff.float()).to(device, dtype),))
            if delta.bias is not None:
                bias = strength * delta.bias.float()
                total = bias if total is None else total + bias
        self.cached = {(device, dtype): chains}
        self.cached_bias = {} if total is None else {(device, dtype): total.to(device, dtype)}


class Directed:
    """What a DoRA adds to the output of a linear layer: m / |W + B·A| · (W + B·A) x - W x, times its strength."""

    def __init__(self, down: Tensor, up: Tensor, magnitude: Tensor, strength: float) -> None:
        self.down, self.up, self.magnitude, self.strength = down, up, magnitude, strength
        self.ratio: Tensor | None = None

    def __call__(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """The change for an input [..., in] and the layer's own output [..., out]."""
        assert isinstance(module, nn.Linear)
        if self.ratio is None:  # weights that are streamed are the same each time
            self.ratio = (self.magnitude / row_lengths(module.weight, self.down, self.up)).to(output.dtype)
        plain = output if module.bias is None else output - module.bias.to(output)
        product = F.linear(F.linear(x, self.down), self.up)
        return self.strength * (self.ratio * (plain + product) - plain)
