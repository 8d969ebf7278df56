"""Whether the tensors of a file are those that a module needs, and a strict mapping of them to it.

Compares names and shapes before a value is read. Knows the registry, so that weights of another model are named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from lichtspiel.models import Spec, shapes
from lichtspiel.spec import MODELS, CLIPSpec, Model, Part
from lichtspiel.weights.components import SHARD, Component

__all__ = ["Mismatch", "Weights", "bare", "compare", "describe", "models_of", "spec_of"]

Shapes = dict[str, tuple[int, ...]]

WAN22_PATCHES = (3072, 48)
"""Width and latent channels of Wan2.2 TI2V-5B, by which its files are known."""

VAE_WIDTH = "encoder.conv1.weight"
"""The tensor whose first axis is the base width of a VAE."""

SHOWN = 3
"""How many tensor names a message lists before it says how many more there are."""


def spec_of(model: Model, part: Part, stored: Component | None = None) -> Spec | None:
    """The shape of one part of a model; None if it has no such part.

    Weights that somebody trained for the embedded model may have a narrower or wider VAE, as `stored` has it: nothing
    else depends on that width.
    """
    specs: dict[Part, Spec | None] = {"dit": model.dit, "vae": model.vae, "umt5": model.umt5, "clip": model.clip}
    first = stored.shapes().get(VAE_WIDTH, ()) if stored is not None and part == "vae" and model.embedded else ()
    return replace(model.vae, width=first[0]) if first else specs[part]


def bare(stored: Shapes, spec: Spec) -> Shapes:
    """The shapes of stored tensors without the blocks of the published image encoder that never run."""
    if not isinstance(spec, CLIPSpec):
        return stored
    idle = tuple(f"transformer.{block}." for block in range(spec.used_layers, spec.layers))
    return {name: shape for name, shape in stored.items() if not name.startswith(idle)}


@dataclass(frozen=True)
class Mismatch:
    """What keeps stored tensors from being a part: names that are missing, not needed, or of another shape."""

    missing: list[str]
    unexpected: list[str]
    other: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.other)

    @property
    def size(self) -> int:
        """The number of names affected."""
        return len(self.missing) + len(self.unexpected) + len(self.other)


def compare(part: Component, spec: Spec) -> Mismatch:
    """Compare the names and shapes of a stored part with those of a specification."""
    need, have = shapes(spec), bare(part.shapes(), spec)
    have = {name: need[name] if _folded(name, shape, need.get(name)) else shape for name, shape in have.items()}
    return Mismatch(
        missing=[name for name in need if name not in have],
        unexpected=[name for name in have if name not in need] + part.unexpected,
        other=[name for name in need if name in have and have[name] != need[name]],
    )


def _folded(name: str, have: tuple[int, ...], need: tuple[int, ...] | None) -> bool:
    """Whether a stored patch embedding has the right numbers in fewer axes: some projects keep it as a linear layer,
    and GGUF has four axes at most."""
    return need is not None and name.endswith("patch_embedding.weight") and math.prod(have) == math.prod(need)


def models_of(part: Component) -> list[str]:
    """The models of the registry whose specification a stored part fits exactly."""
    specs = {name: spec_of(row, part.part, part) for name, row in MODELS.items()}
    return [name for name, spec in specs.items() if spec is not None and not compare(part, spec)]


def describe(part: Component, spec: Spec) -> str:
    """One line on why a component does not match a specification, with the remedy."""
    if part.vace_module:
        return f"{part.source} is a VACE module; name the file of its text-to-video model with --weights as well"
    mismatch = compare(part, spec)
    if names := models_of(part):
        return (
            f"{part.source} holds the weights of another model: {' or '.join(names)}; choose one with --model, or name "
            "other weights"
        )
    patches = part.shapes().get("patch_embedding.weight", ())
    if part.part == "dit" and patches[:2] == WAN22_PATCHES:
        return f"{part.source} is Wan2.2 TI2V-5B, which is not supported yet; use a model of Wan2.1"
    if mismatch.other:
        name = mismatch.other[0]
        return (
            f"{part.source}: {name} has the shape {list(part.shape(name))}, this model needs "
            f"{list(shapes(spec)[name])} ({len(mismatch.other)} tensors differ); it is a checkpoint of another size"
        )
    if mismatch.missing:
        lost = f": {lost}" if (lost := _lost_shards(part)) else ""
        return f"{part.source} lacks {_some(mismatch.missing)}; it is a different model or an incomplete download{lost}"
    return f"{part.source} has {_some(mismatch.unexpected)} that this model does not use; it is a different model"


def _lost_shards(part: Component) -> str:
    """Which shards are missing, if the files are numbered."""
    numbers = [(int(match[1]), int(match[2])) for path in part.paths if (match := SHARD.search(path.name))]
    if not numbers:
        return ""
    total = max(total for _, total in numbers)
    lost = [str(number) for number in range(1, total + 1) if number not in {number for number, _ in numbers}]
    return f"shard {', '.join(lost)} of {total} is not there" if lost else ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


class Weights(Mapping[str, Tensor]):
    """The tensors of a component that a module needs, by name; each is read on request and not kept.

    `part` is one that `compare` found to fit. Asking raises WeightsError when a tensor cannot be decoded.
    """

    def __init__(self, part: Component, spec: Spec) -> None:
        assert not part.problems
        assert not compare(part, spec)
        self.part, self.names = part, shapes(spec)

    def __getitem__(self, name: str) -> Tensor:
        return self.part[name].reshape(self.names[name])

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """The rows `ids` [l] of a matrix; the others are not decoded."""
        return self.part.rows(name, ids)

    def float8(self, name: str) -> tuple[Tensor, Tensor] | None:
        """A matrix as it is stored in e4m3, and the scale of each row; None if it is stored otherwise."""
        stored = self.part.float8(name)
        return stored if stored is not None and stored[0].shape == self.names[name] else None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
