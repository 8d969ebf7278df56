"""What a LoRA is once it is read, and which models it fits: low-rank pairs and differences per layer, in our names.

It reads no files and changes no models. Shapes of a model come from its specification, never from its tensors, so
that a model fits the same whether its weights are 16-bit, quantized or not there at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from lichtspiel.errors import WeightsError
from lichtspiel.lora.names import BARE
from lichtspiel.models import shapes
from lichtspiel.models.dit import DiT
from lichtspiel.spec import MODELS, DiTSpec, Model

__all__ = ["Delta", "Dialect", "LoRA", "Report", "match"]

Dialect = Literal["diffusers", "kohya", "comfy", "diffsynth", "plain"]
Shape = tuple[int, ...]

TRIGGERS = ("modelspec.trigger_phrase", "ss_trigger_words", "trigger_words", "trigger_word", "instance_prompt")
"""Metadata entries in which trainers leave the words that call what was learned."""

SHOWN = 3
"""How many layers a message lists before it says how many more there are."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """The change of one layer: a low-rank pair, a difference of the weight, one of the bias, or several of these.

    The pair is `up` [out, rank] and `down` [rank, in], or of a convolution with its kernel behind; its product counts
    alpha / rank times, or once without an alpha, as in kohya's trainers and in PEFT. Differences count once. With a
    `magnitude` [out] the pair is DoRA's (arXiv 2402.09353): every row of weight and product together is brought to its
    length in `magnitude`.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    diff: Tensor | None = None
    bias: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int | None:
        """Rank of the pair; None without one."""
        return None if self.down is None else self.down.shape[0]

    @property
    def scale(self) -> float:
        """The factor of the pair's product."""
        return 1.0 if self.alpha is None or self.down is None else self.alpha / self.down.shape[0]

    @property
    def changes(self) -> bool:
        """Whether this changes the layer at all: not if everything is zero, as in a file saved before training."""
        if self.magnitude is not None:
            return True
        pair = (self.down, self.up)
        if self.scale and all(part is not None and bool(part.float().any()) for part in pair):
            return True
        return any(part is not None and bool(part.float().any()) for part in (self.diff, self.bias))

    def matrix(self, strength: float) -> tuple[Tensor, Tensor] | None:
        """The pair as two float32 matrices, `down` [rank, in] and `up` [out, rank] with scale and `strength` in it."""
        if self.down is None or self.up is None:
            return None
        return self.down.float().flatten(1), self.up.float().flatten(1) * (self.scale * strength)

    def misfit(self, layer: str, have: Mapping[str, Shape]) -> str:
        """Why this change cannot be made to `layer` of a model with the parameters `have`; empty if it can."""
        target = have.get(parameter(layer))
        if target is None:
            return "no such layer"
        if self.down is not None and self.up is not None:
            pair = (self.up.shape[0], self.down[0].numel())
            if len(target) == 1 or layer.endswith(BARE) or pair != (target[0], math.prod(target[1:])):
                return f"the pair makes {pair[0]} x {pair[1]}, the model has {_shape(target)}"
        if self.magnitude is not None and len(target) != 2:
            return "its magnitude belongs to a linear layer"
        if self.diff is not None and tuple(self.diff.shape) != target:
            return f"the difference is {_shape(tuple(self.diff.shape))}, the model has {_shape(target)}"
        if self.bias is not None:
            bias = have.get(f"{layer}.bias")
            if bias is None:
                return "the layer has no bias"
            if tuple(self.bias.shape) != bias:
                return f"the bias difference is {_shape(tuple(self.bias.shape))}, the model has {_shape(bias)}"
        return ""


def parameter(layer: str) -> str:
    """Name of the parameter that is a layer's weight."""
    return layer if layer.endswith(BARE) else f"{layer}.weight"


def _shape(sizes: Shape) -> str:
    return " x ".join(str(size) for size in sizes)


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """A file's changes by our layer names, in the file's own precision.

    `foreign` names layers of the file that no model of the family has, `text_encoder` those that belong to a text
    encoder, which is never changed here; neither has its tensors kept. Both count as unmatched, so that nothing that
    a file asks for is left out in silence.
    """

    path: Path
    dialect: Dialect
    layers: Mapping[str, Delta]
    foreign: tuple[str, ...]
    text_encoder: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def ranks(self) -> dict[int, int]:
        """How many pairs have which rank, lowest rank first."""
        return dict(sorted(Counter(delta.rank for delta in self.layers.values() if delta.rank is not None).items()))

    @property
    def alphas(self) -> dict[float | None, int]:
        """How many pairs have which alpha; None for those without, whose scale is 1."""
        return dict(Counter(delta.alpha for delta in self.layers.values() if delta.rank is not None))

    def fits(self) -> tuple[str, ...]:
        """Names of the registry's models that have every layer of this file, each in its shape."""
        if self.foreign or self.text_encoder:
            return ()
        return tuple(name for name, row in MODELS.items() if self._matches(row.dit) == len(self.layers))

    def partly_fits(self) -> tuple[str, ...]:
        """Names of the registry's models that have the most layers of this file, at least one."""
        counts = {name: self._matches(row.dit) for name, row in MODELS.items()}
        best = max(counts.values())
        return tuple(name for name, count in counts.items() if count == best > 0)

    def _matches(self, spec: DiTSpec) -> int:
        have = shapes(spec)
        return sum(not delta.misfit(layer, have) for layer, delta in self.layers.items())

    def describe(self) -> dict[str, object]:
        """A full description of the file, as values that JSON can hold."""
        deltas = self.layers.values()
        blocks = Counter(".".join(name.split(".")[:2]) for name in self.layers if "blocks." in name)
        dtypes = Counter(str(part.dtype).removeprefix("torch.") for delta in deltas for part in _parts(delta))
        fits = self.fits()
        return {
            "file": str(self.path),
            "dialect": self.dialect,
            "layers": len(self.layers),
            "pairs": sum(delta.down is not None for delta in deltas),
            "weight_differences": sum(delta.diff is not None for delta in deltas),
            "bias_differences": sum(delta.bias is not None for delta in deltas),
            "magnitudes": sum(delta.magnitude is not None for delta in deltas),
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "alphas": {"none" if alpha is None else f"{alpha:g}": count for alpha, count in self.alphas.items()},
            "scales": sorted({delta.scale for delta in deltas if delta.down is not None}),
            "dtypes": dict(dtypes),
            "layers_per_block": dict(blocks),
            "layers_outside_blocks": [name for name in self.layers if "blocks." not in name],
            "text_encoder": list(self.text_encoder),
            "foreign": list(self.foreign),
            "fits": list(fits),
            "partly_fits": [] if fits else list(self.partly_fits()),
            "trigger_words": [self.metadata[key] for key in TRIGGERS if self.metadata.get(key)],
            "metadata": dict(self.metadata),
        }


def _parts(delta: Delta) -> list[Tensor]:
    return [part for part in (delta.down, delta.up, delta.diff, delta.bias, delta.magnitude) if part is not None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """How a LoRA fits one model: layers by name, and the registry's models that it fits in full.

    `wrong_shape` says of each layer what differs. Layers of a text encoder count as unmatched.
    """

    path: Path
    summary: str
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    wrong_shape: Mapping[str, str]
    fits: tuple[str, ...]
    partly_fits: tuple[str, ...]

    @property
    def total(self) -> int:
        """All layers of the file."""
        return len(self.matched) + len(self.unmatched) + len(self.wrong_shape)

    @property
    def whole(self) -> bool:
        """Whether every layer of the file found its place."""
        return len(self.matched) == self.total

    def __str__(self) -> str:
        return f"{self.path.name}: matched {len(self.matched)}/{self.total} layers, {self.summary}"

    def check(self, *, partial: bool) -> None:
        """Raise WeightsError if no layer matches, or, unless `partial`, if one does not; the message names which."""
        if self.whole or (partial and self.matched):
            return
        wrong = [f"{name} ({why})" for name, why in self.wrong_shape.items()]
        missing = [f"{name} (no such layer)" for name in self.unmatched]
        odd = [*wrong, *missing]
        more = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        if self.fits:
            remedy = f"it belongs to {', '.join(self.fits)}: choose one of these as the model"
        elif self.partly_fits:
            remedy = f"no known model has all of its layers; {', '.join(self.partly_fits)} has the most"
        else:
            remedy = "no known model has its layers"
        if self.matched:
            remedy += ", or pass --lora-partial"
        raise WeightsError(f"{self}; not matched: {', '.join(odd[:SHOWN])}{more}; {remedy}")


def match(lora: LoRA, target: DiT | DiTSpec | Model) -> Report:
    """Compare a LoRA with a model, a row of the registry or a specification; changes nothing and never raises."""
    if isinstance(target, DiT):
        target = target.spec
    elif isinstance(target, Model):
        target = target.dit
    have = shapes(target)
    matched: list[str] = []
    absent: list[str] = []
    wrong_shape: dict[str, str] = {}
    for layer, delta in lora.layers.items():
        why = delta.misfit(layer, have)
        if not why:
            matched.append(layer)
        elif parameter(layer) in have:
            wrong_shape[layer] = why
        else:
            absent.append(layer)
    fits = lora.fits()
    return Report(
        path=lora.path,
        summary=_summary(lora, fits),
        matched=tuple(matched),
        unmatched=(*absent, *lora.foreign, *lora.text_encoder),
        wrong_shape=wrong_shape,
        fits=fits,
        partly_fits=() if fits else lora.partly_fits(),
    )


def _summary(lora: LoRA, fits: tuple[str, ...]) -> str:
    """Dialect, ranks, alphas and models of a LoRA in one line."""
    ranks = ", ".join(str(rank) for rank in lora.ranks)
    alphas = ", ".join("none" if alpha is None else f"{alpha:g}" for alpha in lora.alphas)
    summary = f"dialect {lora.dialect}, rank {ranks or 'none'}, alpha {alphas or 'none'}"
    if fits:
        summary += f", fits {', '.join(fits)}"
    if lora.layers and not any(delta.changes for delta in lora.layers.values()):
        summary += ", but it changes nothing: its matrices or alphas are all zero"
    return summary
