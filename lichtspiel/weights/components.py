"""The parts of a checkpoint in their files: recognized by the names of tensors, and read one tensor at a time.

Knows layouts (`layouts`), files (`tensor_files`, `gguf`) and 8-bit floats with scales, but no model of the registry. A
part may be spread over several files (shards), and one file may hold several parts behind different prefixes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from lichtspiel.errors import WeightsError
from lichtspiel.spec import Part
from lichtspiel.weights.gguf import GGUFFile
from lichtspiel.weights.layouts import ALIASES, Dialect, Slot, recognize, unprefixed
from lichtspiel.weights.tensor_files import SUFFIXES, Pickle, SafetensorsFile, TensorFile, file_kind

__all__ = ["Component", "Scan", "group", "open_file", "scan", "weight_files"]

DEPTH = 4
"""How deep a folder is searched: ComfyUI/models/diffusion_models/Wan/2.1 from ComfyUI, and a snapshot from the hub's
cache."""

SCALES = (".scale_weight", ".weight_scale")
"""Endings that replace `.weight` in the name of the scale of an 8-bit weight."""

MARKERS = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant")
"""Ends of names of tensors that only say how a file was quantized, or how activations would be."""

WAN22 = re.compile(r"wan[-_. ]?2[-_. ]?2|(high|low)[-_ ]?noise", re.IGNORECASE)
"""Names of files and folders of Wan2.2's experts, whose tensors have the names and shapes of Wan2.1's."""

WAN21 = re.compile(r"wan[-_. ]?2[-_. ]?1", re.IGNORECASE)

COMFY_PATHS = "extra_model_paths.yaml"
COMFY_KINDS = {"checkpoints", "diffusion_models", "unet", "text_encoders", "clip", "clip_vision", "vae"}
"""The file in which ComfyUI is told where else models are, and its names for the kinds that Wan2.1 consists of."""

VACE = "vace_"
"""The prefix of all names that VACE adds to a text-to-video model."""

SHARD = re.compile(r"-(\d+)-of-(\d+)\.")
"""The number of a shard, and how many there are, in the name of a file."""

EXTRAS = ("vocabulary", "latent_mean", "latent_std")
"""Tensors of the embedded model's files that are constants of the checkpoint and no weights."""

READABLE = re.compile(r"F64|F32|F16|BF16|F8_E4M3|F8_E5M2|I?Q\d\w*|TQ\d_0|MXFP4")
"""Precisions in which a weight may be stored; those of GGML that cannot be decoded are refused when they are read."""


@dataclass(frozen=True)
class Piece:
    """A tensor in a file, with the name of its scale if it has one."""

    file: TensorFile
    name: str
    scale: str | None = None

    def read(self) -> Tensor:
        """The values: 16 bit and more as stored, 8-bit floats as float32 with their scale applied."""
        return self._scaled(self.file.read(self.name), None)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows `ids` [l] of a matrix, as `read` gives them; the others are not decoded."""
        return self._scaled(self.file.rows(self.name, ids), ids)

    def _scaled(self, value: Tensor, ids: Tensor | None) -> Tensor:
        if value.dtype in {torch.float8_e4m3fn, torch.float8_e5m2}:
            value = value.float()
        if self.scale is None:
            return value
        scale = self.file.read(self.scale).float()
        if ids is not None and scale.numel() > 1:
            scale = scale.flatten()[ids]
        return value.float() * scale.reshape(-1, *(1,) * (value.dim() - 1))


@dataclass
class Component:
    """One part in its files. Iterating yields every tensor with its official name; each is read on demand."""

    part: Part
    dialect: Dialect
    prefix: str
    files: list[TensorFile] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    extras: dict[str, Piece] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    joined: bool = False
    _pieces: dict[str, dict[int, Piece]] = field(default_factory=dict)
    _slots: dict[str, Slot] = field(default_factory=dict)

    @property
    def vace_module(self) -> bool:
        """Whether this is what VACE adds to a text-to-video model, published without it."""
        return self.part == "dit" and bool(self._pieces) and all(name.startswith(VACE) for name in self._pieces)

    def join(self, module: Component) -> Component:
        """This diffusion transformer together with a VACE module."""
        return Component(
            self.part, self.dialect, self.prefix, [*self.files, *module.files],
            [*self.unexpected, *module.unexpected], self.extras, [*self.problems, *module.problems], True,
            self._pieces | module._pieces, self._slots | module._slots,
        )  # fmt: skip

    @property
    def paths(self) -> list[Path]:
        """The files that hold the part."""
        return [file.path for file in self.files]

    @property
    def source(self) -> str:
        """The files, as messages name them."""
        first, *more = self.paths
        return f"{first} (and {len(more)} more)" if more else str(first)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an official tensor, put together from its pieces."""
        shapes = [piece.file.entries[piece.name].shape for piece in self._pieces[name].values()]
        slot = self._slots[name]
        if slot.pieces > 1:
            return (sum(shape[0] for shape in shapes), *shapes[0][1:])
        return (*(1,) * slot.axes, *shapes[0])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every official tensor whose pieces are all in the files; reads no value."""
        return {
            name: self.shape(name) for name, pieces in self._pieces.items() if len(pieces) == self._slots[name].pieces
        }

    def precisions(self) -> Counter[str]:
        """How many stored tensors there are in each precision."""
        pieces = (piece for slots in self._pieces.values() for piece in slots.values())
        return Counter(piece.file.entries[piece.name].precision for piece in pieces)

    @property
    def scaled(self) -> bool:
        """Whether some of the weights have scales."""
        return any(piece.scale for pieces in self._pieces.values() for piece in pieces.values())

    def __getitem__(self, name: str) -> Tensor:
        """One official tensor; raises KeyError for a name that the files do not hold."""
        pieces, slot = self._pieces[name], self._slots[name]
        values = [pieces[index].read() for index in sorted(pieces)]
        value = values[0] if len(values) == 1 else torch.cat(values)
        return value.reshape(*(1,) * slot.axes, *value.shape) if slot.axes else value

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """The rows `ids` [l] of an official matrix that is one tensor in the file."""
        (piece,) = self._pieces[name].values()
        return piece.rows(ids)

    def float8(self, name: str) -> tuple[Tensor, Tensor] | None:
        """An official matrix in e4m3 as it is stored, and the scale [out, 1] of each row in float32, which is 1 without
        scales; None for a tensor that is stored otherwise or in pieces."""
        piece, *more = self._pieces[name].values()
        entry = piece.file.entries[piece.name]
        if more or self._slots[name].axes or len(entry.shape) != 2 or entry.precision != "F8_E4M3":
            return None
        scale = torch.ones(()) if piece.scale is None else piece.file.read(piece.scale).float()
        return piece.file.read(piece.name), scale.reshape(-1, 1).expand(entry.shape[0], 1)

    @property
    def widened(self) -> bool:
        """Whether some of the weights are stored in eight-bit floating point, which most precisions widen."""
        return any(precision.startswith("F8_") for precision in self.precisions())

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Every official tensor in the order of the files."""
        return ((name, self[name]) for name in self._pieces)

    def extra(self, name: str) -> Tensor | None:
        """A constant of the embedded model; None in all other files."""
        return self.extras[name].read() if name in self.extras else None

    def add(self, file: TensorFile, names: dict[str, str]) -> None:
        """Take the tensors of one more file in; `names` are theirs without prefix, and with it."""
        self.files.append(file)
        if self.part == "dit" and _is_wan22(file):
            self.problems.append(
                f"{file.path} is an expert of Wan2.2 A14B, which is not supported yet; it has the shapes of a Wan2.1 "
                "model, but makes noise without its twin"
            )
        scales = {_weight_of(name): stored for name, stored in names.items() if name.endswith(SCALES)}
        has_scale_marker = any(name.endswith("scaled_fp8") for name in names)
        for name, whole in names.items():
            alias = ALIASES.get(name, name)
            if name.endswith((*MARKERS, *SCALES)) or self.dialect.ignores(name) or (alias != name and alias in names):
                continue
            piece = Piece(file, whole, scales.pop(name, None))
            slot = self.dialect.slot(alias)
            if slot is not None:
                self._check(piece)
                self._slots[slot.name] = slot
                self._pieces.setdefault(slot.name, {})[slot.index] = piece
            elif name in EXTRAS:
                self.extras[name] = piece
            else:
                self.unexpected.append(whole)
        self.unexpected += scales.values()
        if has_scale_marker and not self.scaled:
            self.problems.append(
                f"{file.path} says that its 8-bit weights have scales, but holds none; download it again"
            )

    def _check(self, piece: Piece) -> None:
        precision = piece.file.entries[piece.name].precision
        if not READABLE.fullmatch(precision):
            self.problems.append(
                f"{piece.file.path}: {piece.name} is stored as {precision}, which cannot be read; use a file in 16 "
                "bit, fp8 (e4m3) or GGUF"
            )
        scale = None if piece.scale is None else piece.file.entries[piece.scale]
        if scale is not None and math.prod(scale.shape) not in {1, *piece.file.entries[piece.name].shape[:1]}:
            self.problems.append(
                f"{piece.file.path}: {piece.scale} has the shape {list(scale.shape)}; only one scale per tensor "
                "or per row can be read; use a file with such scales, or one in 16 bit"
            )

    def overlaps(self, names: dict[str, str]) -> bool:
        """Whether this part already has one of the names, so that the file they come from is no shard of it."""
        places = (self.dialect.slot(name) for name in names)
        return any(slot is not None and slot.index in self._pieces.get(slot.name, {}) for slot in places)


def _is_wan22(file: TensorFile) -> bool:
    """Whether a file is an expert of Wan2.2: by its metadata, by the pipeline that it lies in (two transformers), or by
    the name nearest to it in its path."""
    metadata: dict[str, str] = getattr(file, "metadata", {})
    if any(WAN22.search(text) for text in metadata.values()):
        return True
    if (file.path.parent.parent / "transformer_2").is_dir() and file.path.parent.name.startswith("transformer"):
        return True
    *before, folder, own = file.path.absolute().parts
    names = [own, folder]
    if "snapshots" in (parts := [*before, folder]):  # the hub's cache: models--Wan-AI--.../snapshots/HASH/...
        names += parts[parts.index("snapshots") - 1 :][:1]
    named = next((name for name in names if WAN21.search(name) or WAN22.search(name)), "")
    return WAN21.search(named) is None and WAN22.search(named) is not None


def _weight_of(scale: str) -> str:
    return scale.rsplit(".", 1)[0] + ".weight"


def open_file(path: Path) -> TensorFile:
    """Open a file of tensors of any kind that is known.

    Raises WeightsError for a missing, truncated or foreign file, and for a pickle that holds more than tensors.
    """
    if not os.path.isfile(path):
        raise WeightsError(f"{path} does not exist; name the file or folder of the checkpoint with --weights")
    kind = file_kind(path)
    if kind == "safetensors":
        return SafetensorsFile(path)
    if kind == "gguf":
        return GGUFFile(path)
    if kind == "pickle":
        return Pickle(path)
    if kind == "pointer":
        raise WeightsError(f"{path} only points to a file in Git LFS; fetch the file itself with: git lfs pull")
    raise WeightsError(
        f"{path} is not a file of tensors (.safetensors, .gguf, .pth), or it is incomplete; download it again"
    )


def weight_files(path: Path) -> list[Path]:
    """The files of tensors that a path stands for: itself, or those of a folder and of the folders in it, `DEPTH` deep.

    Raises WeightsError when there is no such path, and for an index of shards of which some are missing.
    """
    if os.path.isfile(path):  # unlike the methods of Path these do not raise for a name that is too long
        return comfy_files(path) if path.suffix in {".yaml", ".yml"} else [path]
    if not os.path.isdir(path):
        raise WeightsError(f"{path} does not exist; name the file or folder of the checkpoint with --weights")
    folders = _folders(path)
    for folder in folders:
        for index in sorted(folder.glob("*.index.json")):
            _check_index(index)
    files = [
        file
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.suffix in SUFFIXES and file.is_file() and file.name[0] != "."
    ]
    elsewhere = path / COMFY_PATHS
    return files + [file for file in comfy_files(elsewhere) if file not in files] if elsewhere.is_file() else files


def comfy_files(path: Path) -> list[Path]:
    """The files of tensors in the folders that a file of ComfyUI's model paths names (`extra_model_paths.yaml`).

    Each section may have a `base_path`, and one or more folders, a line each, for a kind of model. Folders that do not
    exist are left out, as ComfyUI does. Raises WeightsError for a file of something else.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WeightsError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise WeightsError(f"{path} is no list of model paths, as ComfyUI's extra_model_paths.yaml is")
    files: dict[Path, None] = {}
    for section in content.values():
        base = path.parent / Path(str(section.get("base_path", "."))).expanduser()
        for kind in COMFY_KINDS & section.keys():
            for line in str(section[kind]).splitlines():
                folder = base / Path(line.strip()).expanduser()
                files |= dict.fromkeys(weight_files(folder) if line.strip() and folder.is_dir() else [])
    return sorted(files)


def _folders(path: Path, depth: int = 0) -> list[Path]:
    """A folder and those in it, in order of their names; hidden ones are left out."""
    folders = [path]
    if depth < DEPTH:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink() and child.name[0] != ".":
                folders += _folders(child, depth + 1)
    return folders


def _check_index(index: Path) -> None:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        shards = sorted(set(content["weight_map"].values()))
        present = [shard for shard in shards if (index.parent / shard).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is not a whole index of shards; download it again") from error
    if missing := sorted({*shards} - {*present} if present else {}):
        raise WeightsError(
            f"{index} names {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}, which "
            f"{'are' if missing[1:] else 'is'} not there; download the rest of the {len(shards)} shards"
        )


def group(files: Sequence[TensorFile]) -> tuple[list[Component], list[TensorFile]]:
    """The parts in `files`, and the files in which no part of the family was recognized.

    Files of one folder, layout and prefix that have no tensor in common are shards of one part; others are parts of
    their own, between which the caller has to choose. A VACE module is joined to every diffusion transformer.
    """
    parts: list[Component] = []
    foreign: list[TensorFile] = []
    for _, siblings in groupby(files, key=lambda file: file.path.parent):
        components: list[Component] = []
        for file in siblings:
            added = _take(file, components)
            if not added:
                foreign.append(file)
        parts += components
    modules = [part for part in parts if part.vace_module]
    bases = [part for part in parts if part.part == "dit" and not part.vace_module]
    if modules and bases:
        parts = [part for part in parts if not part.vace_module]
        parts += [base.join(module) for base in bases for module in modules]
    return parts, foreign


def _take(file: TensorFile, components: list[Component]) -> list[Component]:
    """Add the parts that a file holds to the `components` of its folder; returns them."""
    groups: dict[str, dict[str, str]] = {}
    for name in file.entries:
        prefix, rest = unprefixed(name)
        groups.setdefault(prefix, {})[rest] = name
    added: list[Component] = []
    strange: list[str] = []
    for prefix, names in groups.items():
        table = recognize([name for name in names if not name.endswith((*MARKERS, *SCALES, *EXTRAS))])
        if table is None:
            strange += names.values()
            continue
        alone = not SHARD.search(file.path.name) and all(name.startswith((VACE, *MARKERS)) for name in names)
        matching = (
            part
            for part in components
            if (part.dialect, part.prefix) == (table, prefix)
            and not part.overlaps(names)
            and not (alone or part.vace_module)
        )
        part = next(matching, None)
        if part is None:
            part = Component(table.part, table, prefix)
            components.append(part)
        part.add(file, names)
        added.append(part)
    for name in strange if added else ():
        if not name.endswith(MARKERS) and not any(part.dialect.ignores(name) for part in added):
            added[0].unexpected.append(name)
    return added


@dataclass(frozen=True)
class Scan:
    """Everything that some paths hold: parts, files of tensors of something else, and why others did not open."""

    parts: list[Component]
    foreign: list[TensorFile]
    failures: dict[Path, WeightsError]


def scan(paths: Sequence[Path]) -> Scan:
    """Open everything that `paths` refer to; see `weight_files`, `open_file` and `group`."""
    files: list[TensorFile] = []
    failures: dict[Path, WeightsError] = {}
    for file in (file for path in paths for file in weight_files(path)):
        try:
            files.append(open_file(file))
        except WeightsError as error:
            failures[file] = error
    parts, foreign = group(files)
    return Scan(parts, foreign, failures)
