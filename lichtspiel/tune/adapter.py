"""A LoRA or DoRA that can be trained: pairs of matrices attached to a model's linear layers from outside.

The model's own weights stay frozen and may be resident, quantized or streamed: the pairs only see what goes into and
comes out of a layer, and DoRA also reads its weight while the layer runs. The pairs are float32 whatever the model
computes in. Knows nothing of data, losses or files; `lora` says what a finished adapter is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput
from lichtspiel.lora import Delta, LoRA, row_lengths
from lichtspiel.models import shapes
from lichtspiel.models.dit import DiT
from lichtspiel.spec import DiTSpec
from lichtspiel.tune.settings import BLOCKS, AdapterPlan

__all__ = ["Adapter", "check_start", "chosen_layers", "linear_layers", "weight_of"]

SHOWN = 6
"""How many names of layers a message lists."""


def linear_layers(spec: DiTSpec) -> tuple[str, ...]:
    """The names of all linear layers of a model, in its order."""
    found = shapes(spec).items()
    return tuple(name.removesuffix(".weight") for name, shape in found if name.endswith(".weight") and len(shape) == 2)


def chosen_layers(spec: DiTSpec, patterns: Sequence[str]) -> tuple[str, ...]:
    """The linear layers that any of the patterns matches; the defaults match nothing in a model without such blocks.

    Raises InvalidInput for a pattern that matches no linear layer, because it would be ignored.
    """
    names = linear_layers(spec)
    for pattern in patterns:
        if pattern not in BLOCKS and not any(fnmatchcase(name, pattern) for name in names):
            kinds = list(dict.fromkeys(_unnumbered(name) for name in names))
            shown = ", ".join(kinds[:SHOWN])
            raise InvalidInput(f"--layers {pattern} matches no linear layer; layers are {shown} and so on")
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def check_start(lora: LoRA, spec: DiTSpec, plan: AdapterPlan) -> None:
    """Raise InvalidInput unless a run with this plan can begin with an adapter: it fits the model, and has pairs of the
    same rank and kind for the same layers."""
    have, names = shapes(spec), chosen_layers(spec, plan.layers)
    for name, delta in lora.layers.items():
        if told := delta.misfit(name, have):
            fitting = lora.fits()
            remedy = f"it fits {', '.join(fitting)}; choose it with --model" if fitting else "it is for another model"
            raise InvalidInput(f"--from {lora.path}: {name}: {told}; {remedy}")
        if delta.rank is None or delta.diff is not None or delta.bias is not None:
            raise InvalidInput(
                f"--from {lora.path}: {name} is no plain pair; begin with a LoRA or DoRA of linear layers"
            )
        if delta.rank != plan.rank:
            raise InvalidInput(
                f"--from {lora.path} has pairs of rank {delta.rank}, not {plan.rank}; type --rank {delta.rank}, or "
                "change it with `lichtspiel lora resize`"
            )
        if (delta.magnitude is not None) != plan.dora:
            kind = "a LoRA; leave out --dora" if plan.dora else "a DoRA; add --dora"
            raise InvalidInput(f"--from {lora.path} holds {kind}")
    if lost := sorted(set(lora.layers) ^ set(names)):
        here = "the file and not in --layers" if lost[0] in lora.layers else "--layers and not in the file"
        raise InvalidInput(
            f"--from {lora.path}: {len(lost)} layers differ, {lost[0]} is in {here}; use the same layers"
        )


def _unnumbered(name: str) -> str:
    return ".".join("*" if part.isdigit() and number == 1 else part for number, part in enumerate(name.split(".")))


class _Pair(nn.Module):
    """What one layer learns: `down` [rank, in], `up` [out, rank] and, with DoRA, `magnitude` [out]."""

    magnitude: nn.Parameter | None

    def __init__(self, shape: tuple[int, int], plan: AdapterPlan, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = shape
        # Like a linear layer of its own (kaiming_uniform with a = sqrt(5)), and zero, so that training starts from the
        # model as it is (arXiv 2106.09685).
        bound = 1 / math.sqrt(inputs)
        drawn = torch.empty(plan.rank, inputs).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(drawn)
        self.up = nn.Parameter(torch.zeros(outputs, plan.rank))
        self.magnitude = nn.Parameter(torch.empty(outputs)) if plan.dora else None
        self.scale, self.dropout = plan.alpha / plan.rank, plan.dropout

    def change(self, x: Tensor, target: Tensor) -> Tensor:
        """What the pair adds to a layer's output, of an input [..., in], in the dtype and on the device of `target`."""
        x = x.to(target.dtype)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        return F.linear(F.linear(x, self.down.to(x)), self.up.to(x)) * self.scale


class Adapter(nn.Module):
    """All pairs of a model; attached until `detach`. While `disabled`, the model computes what it computed before."""

    def __init__(self, dit: DiT, plan: AdapterPlan, seed: int) -> None:
        super().__init__()
        self.plan, self.names = plan, chosen_layers(dit.spec, plan.layers)
        generator = torch.Generator().manual_seed(seed)
        have = shapes(dit.spec)
        self.pairs = nn.ModuleDict()
        self._enabled = True
        self._handles = []
        for name in self.names:
            outputs, inputs = have[f"{name}.weight"]
            layer = dit.get_submodule(name)
            pair = _Pair((outputs, inputs), plan, generator)
            self.pairs[_key(name)] = pair
            self._handles.append(layer.register_forward_hook(self._hook(pair)))

    def _hook(self, pair: _Pair) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self._enabled:
                return output
            change = pair.change(inputs[0], output)
            if pair.magnitude is None:
                return output + change
            bias = layer.bias
            assert bias is None or isinstance(bias, Tensor)
            plain = output if bias is None else output - bias.to(output)
            lengths = row_lengths(weight_of(layer), pair.down, pair.up * pair.scale)
            ratio = (pair.magnitude / lengths).to(output)
            result = ratio * (plain + change)
            return result if bias is None else result + bias.to(output)

        return add

    @torch.no_grad()
    def measure(self, weight: Callable[[str], Tensor]) -> None:
        """Start DoRA's magnitudes as the lengths of the rows of the weights, read by the name of their layer."""
        for name, pair in self.named_pairs():
            if pair.magnitude is not None:
                pair.magnitude.copy_(torch.linalg.vector_norm(weight(f"{name}.weight").float(), dim=1))

    @torch.no_grad()
    def start(self, lora: LoRA) -> None:
        """Begin with an adapter that `check_start` let pass; its own scale goes into the pairs."""
        for name, pair in self.named_pairs():
            delta = lora.layers[name]
            matrices = delta.matrix(1.0)
            assert matrices is not None
            pair.down.copy_(matrices[0])
            pair.up.copy_(matrices[1] / pair.scale)
            if pair.magnitude is not None and delta.magnitude is not None:
                pair.magnitude.copy_(delta.magnitude)

    def named_pairs(self) -> Iterator[tuple[str, _Pair]]:
        """The pairs by the names of their layers."""
        for name in self.names:
            pair = self.pairs[_key(name)]
            assert isinstance(pair, _Pair)
            yield name, pair

    def deltas(self) -> dict[str, Delta]:
        """The changes as an adapter file holds them, on the CPU; they share no memory with what is trained."""
        alpha = float(self.plan.alpha)

        def copied(value: Tensor) -> Tensor:
            return value.detach().to("cpu", torch.float32, copy=True)

        return {
            name: Delta(
                down=copied(pair.down), up=copied(pair.up), alpha=alpha,
                magnitude=None if pair.magnitude is None else copied(pair.magnitude),
            )
            for name, pair in self.named_pairs()
        }  # fmt: skip

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside the block, the model computes without the adapter."""
        self._enabled = False
        try:
            yield
        finally:
            self._enabled = True

    def detach(self) -> None:
        """Remove the adapter from the model."""
        for handle in self._handles:
            handle.remove()


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer [out, in]; quantized layers say what theirs stands for."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _key(name: str) -> str:
    return name.replace(".", "/")
