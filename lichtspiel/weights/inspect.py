"""What a file or folder of weights holds: its parts, their layout and precision, and the models they fit.

Reads names, shapes and precisions only, so a checkpoint of any size is looked through in a moment. It loads nothing
and judges nothing that names and shapes do not show: two models of one shape cannot be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lichtspiel.spec import MODELS, Part, Task
from lichtspiel.weights.checkpoint import TITLES
from lichtspiel.weights.components import Component, scan
from lichtspiel.weights.layouts import looks_like_lora, quantizer
from lichtspiel.weights.match import compare, describe, models_of, spec_of
from lichtspiel.weights.tensor_files import TensorFile

__all__ = ["ComponentInfo", "Inventory", "OtherFile", "inspect"]


@dataclass(frozen=True)
class ComponentInfo:
    """One part: its files and layout, what is stored in which precision, the models it fits, and if none, why not.

    `tensors` and `parameters` count what a model would be given; `precision` counts tensors as they are stored, where
    one of ours may be three. `reason` is empty for a part that fits and can be read.
    """

    part: Part
    layout: str
    container: str
    files: list[str]
    tensors: int
    parameters: int
    precision: dict[str, int]
    scaled: bool
    models: list[str]
    reason: str


@dataclass(frozen=True)
class OtherFile:
    """A file that is no part of a checkpoint: an adapter ("LoRA"), tensors of something else, or a damaged file."""

    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Inventory:
    """Everything that a path holds.

    `complete` are the models of which all parts are there, with `tasks` what they can do. `missing` says for every
    model that some diffusion transformer here fits, or if there is none, that any part fits, which parts are lacking.
    """

    path: str
    parts: list[ComponentInfo]
    others: list[OtherFile]
    complete: list[str]
    tasks: list[Task]
    missing: dict[str, list[Part]]

    @property
    def kind(self) -> str:
        """In a word: checkpoint, parts, LoRA or nothing."""
        if self.complete:
            return "checkpoint"
        if self.parts:
            return "parts"
        return "LoRA" if any(file.kind == "LoRA" for file in self.others) else "nothing"

    def to_json(self) -> dict[str, Any]:
        """The same as plain data, for `--json`."""
        return {"kind": self.kind, **asdict(self)}

    def lines(self) -> list[str]:
        """The same in words, one line per thing found."""
        lines = [f"{self.path}: {_KINDS[self.kind]}"]
        for part in self.parts:
            stored = ", ".join(f"{count} {name}" for name, count in part.precision.items())
            lines.append(
                f"  {TITLES[part.part]}: {part.layout} names, {part.container}, {part.tensors} tensors, "
                f"{part.parameters:,} parameters ({stored}{', with scales' if part.scaled else ''})"
            )
            lines += [f"    {file}" for file in part.files]
            if part.models:
                lines.append(f"    fits {', '.join(part.models)}")
            if part.reason:
                lines.append(f"    {'but' if part.models else 'fits no known model'}: {part.reason}")
        lines += [f"  {file.kind}: {file.path}{f' ({file.reason})' if file.reason else ''}" for file in self.others]
        if self.complete:
            lines.append(f"  complete for {', '.join(self.complete)}; tasks: {', '.join(self.tasks)}")
        lines += [
            f"  for {name} it lacks: {', '.join(TITLES[part] for part in parts)} ({MODELS[name].repository or name})"
            for name, parts in self.missing.items()
        ]
        return lines


_KINDS = {
    "checkpoint": "a whole checkpoint",
    "parts": "parts of a checkpoint",
    "LoRA": "a LoRA, to be used on top of a checkpoint",
    "nothing": "nothing that this package can load",
}


def inspect(path: Path | Sequence[Path]) -> Inventory:
    """Look through a file, a folder with its subfolders, or several of them together.

    A file that cannot be opened is reported among `others`. Raises WeightsError for a path that does not exist and
    for an index that names shards which are not there.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    scanned = scan(paths)
    parts = [_part(component) for component in scanned.parts if not component.joined or models_of(component)]
    other_files = [_other(file) for file in scanned.foreign]
    other_files += [OtherFile(str(file), "unreadable", str(error)) for file, error in scanned.failures.items()]
    complete, missing = _models(parts)
    tasks: set[Task] = set()
    for name in complete:
        tasks |= MODELS[name].tasks
    return Inventory(
        path=", ".join(str(one) for one in paths),
        parts=parts,
        others=other_files,
        complete=complete,
        tasks=sorted(tasks),
        missing=missing,
    )


def _models(parts: list[ComponentInfo]) -> tuple[list[str], dict[str, list[Part]]]:
    """The models of which all parts are usable, and what the others lack, as `Inventory` has them."""
    has_transformer = any(info.part == "dit" and info.models for info in parts)
    complete: list[str] = []
    missing: dict[str, list[Part]] = {}
    for name, row in MODELS.items():
        matching = [info for info in parts if name in info.models]
        usable = {info.part for info in matching if not info.reason}
        lacking = [part for part in row.files if part not in usable]
        if not lacking:
            complete.append(name)
        elif any(info.part == "dit" or not has_transformer for info in matching):
            missing[name] = lacking
    return complete, missing


def _part(part: Component) -> ComponentInfo:
    models = models_of(part)
    shapes = part.shapes()
    return ComponentInfo(
        part=part.part,
        layout=part.dialect.name,
        container=", ".join(sorted({file.kind for file in part.files})),
        files=[str(path) for path in part.paths],
        tensors=len(shapes),
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        precision=dict(part.precisions().most_common()),
        scaled=part.scaled,
        models=models,
        reason=part.problems[0] if part.problems else "" if models else _nearest(part),
    )


def _nearest(part: Component) -> str:
    """Why a component matches no model, in terms of the model that comes closest."""
    specs = {name: spec for name, row in MODELS.items() if (spec := spec_of(row, part.part)) is not None}

    def distance(name: str) -> tuple[int, int]:
        mismatch = compare(part, specs[name])
        return len(mismatch.other), mismatch.size

    name = min(specs, key=distance)
    return f"nearest is {name}, but {describe(part, specs[name])}"


def _other(file: TensorFile) -> OtherFile:
    if looks_like_lora(file.entries):
        return OtherFile(str(file.path), "LoRA", "")
    if title := quantizer(file.entries):
        return OtherFile(str(file.path), "unknown", f"quantized by {title}, which cannot be read")
    example = next(iter(file.entries), "no tensors")
    return OtherFile(str(file.path), "unknown", f"{len(file.entries)} tensors such as {example}")
