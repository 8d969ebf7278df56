"""The networks of one checkpoint, each loaded from its own files on request.

The files may be in any published layout: the official folder, a Diffusers folder, ComfyUI's single files, GGUF. Which
file holds what follows from the names and shapes of tensors (`group`). Chooses neither precision nor device.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lichtspiel.config import read_config
from lichtspiel.errors import WeightsError
from lichtspiel.models import Spec, build
from lichtspiel.models.clip import CLIPVision
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import Model, Part, VAESpec
from lichtspiel.storage import pulled
from lichtspiel.tokenizer import END, UNKNOWN, Tokenizer
from lichtspiel.weights.components import Component, Scan, scan
from lichtspiel.weights.hub import cached
from lichtspiel.weights.layouts import looks_like_lora, quantizer
from lichtspiel.weights.match import Weights, compare, describe, spec_of
from lichtspiel.weights.offload import Each, Stream, block_names, load_with_offload
from lichtspiel.weights.tensor_files import check_digest

__all__ = ["EMBEDDED", "TITLES", "Checkpoint", "Files", "checkpoint", "diffusion_weights"]

Module = TypeVar("Module", bound=nn.Module)

Files = Path | str | Sequence[Path | str] | None
"""Where a checkpoint is: a folder, a file, or several; None is where this package keeps them."""

CPU = torch.device("cpu")

SAMPLES, SAMPLE_BYTES = 256, 4096
"""How much of a file is read for its fingerprint."""

EMBEDDED = Path(__file__).parent.parent / "nano"

TITLES: dict[Part, str] = {
    "dit": "diffusion transformer",
    "vae": "video VAE",
    "umt5": "UMT5 text encoder",
    "clip": "CLIP image encoder",
}
"""Names of the parts in messages."""


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model; each method loads one network, in a precision and on a device.

    The first `resident` blocks of a network stay in memory, or all of them if it is None; the others are read from the
    file each time they run (`offload.load_with_offload`).
    """

    model: Model
    parts: dict[Part, Component]
    digests: dict[str, str]

    def _part(self, part: Part) -> Component:
        component = self.parts[part]
        for path in component.paths:
            if path.name in self.digests:
                check_digest(path, self.digests[path.name])
        return component

    def sizes(self) -> dict[Part, int]:
        """Bytes of the files of each part."""
        return {part: sum(path.stat().st_size for path in stored.paths) for part, stored in self.parts.items()}

    def fingerprints(self) -> dict[Part, str]:
        """A digest of samples of each part's files, which takes milliseconds whatever their size. Training and
        quantizing change it, copying and renaming do not."""
        digests: dict[Part, str] = {}
        for part, component in self.parts.items():
            digest = hashlib.sha256()
            for path in sorted(component.paths):
                _sample(path, digest)
            digests[part] = digest.hexdigest()[:32]
        return digests

    def tokenizer(self) -> Tokenizer:
        """The UMT5 tokenizer, reduced to the model's own vocabulary where it has one."""
        part = self._part("umt5")
        vocabulary = part.extra("vocabulary") if self.model.embedded else None
        rows = None if vocabulary is None else vocabulary.flatten().tolist()
        if rows is not None and (len({*rows}) < len(rows) or not {UNKNOWN, END} <= {*rows}):
            raise WeightsError(f"{part.source} has a vocabulary that repeats pieces or lacks <unk> or </s>; replace it")
        return Tokenizer.umt5(self.model.dit.text_length, rows)

    def umt5(
        self, dtype: torch.dtype, device: torch.device = CPU, *, resident: int | None = None, each: Each | None = None
    ) -> UMT5:
        """The text encoder; `each` is called with every block that stays."""
        return self._filled(build(self.model.umt5), "umt5", self.model.umt5, dtype, device, resident, each)

    def dit(
        self, dtype: torch.dtype, device: torch.device = CPU, *, resident: int | None = None, each: Each | None = None
    ) -> DiT:
        """The diffusion transformer; `each` is called with every block that stays."""
        return self._filled(build(self.model.dit), "dit", self.model.dit, dtype, device, resident, each)

    def dit_to_train(
        self, dtype: torch.dtype, device: torch.device = CPU, *, resident: int | None = None, each: Each | None = None
    ) -> tuple[DiT, Stream | None]:
        """The diffusion transformer, and the stream of the blocks that do not stay in memory, whose `before` and
        `after` the caller calls."""
        dit, spec = build(self.model.dit), self.model.dit
        count = len(block_names(dit)) if resident is None else resident
        tensors = Weights(self._part("dit"), spec)
        return dit, load_with_offload(dit, tensors, dtype, device, resident=count, each=each, hooked=False)

    def vae(self, dtype: torch.dtype, device: torch.device = CPU) -> VAE:
        """The video VAE with its latent statistics: from the file if it holds them, else from the specification."""
        part, spec = self._part("vae"), self.model.vae
        mean, std = part.extra("latent_mean"), part.extra("latent_std")
        if mean is not None and std is not None:
            own = {tuple(mean.shape), tuple(std.shape), (spec.latent_channels,)}
            if len(own) > 1 or not (mean.isfinite().all() and (std > 0).all() and std.isfinite().all()):
                raise WeightsError(f"{part.source} has a latent_mean or latent_std that no VAE can have; replace it")
            spec = replace(spec, latent_mean=tuple(mean.tolist()), latent_std=tuple(std.tolist()))
        if spec.latent_mean is None or spec.latent_std is None:
            raise WeightsError(f"{part.source} lacks latent_mean and latent_std; download it again")
        return self._filled(build(spec), "vae", self.model.vae, dtype, device).to(device)

    def clip(self, dtype: torch.dtype, device: torch.device = CPU, *, resident: int | None = None) -> CLIPVision:
        """The image encoder of checkpoints with image cross-attention; its file holds more than is used."""
        assert self.model.clip is not None
        return self._filled(build(self.model.clip), "clip", self.model.clip, dtype, device, resident)

    def _filled(
        self, module: Module, part: Part, spec: Spec, dtype: torch.dtype, device: torch.device,
        resident: int | None = None, each: Each | None = None,
    ) -> Module:  # fmt: skip
        count = len(block_names(module)) if resident is None else resident
        load_with_offload(module, Weights(self._part(part), spec), dtype, device, resident=count, each=each)
        return module.eval().requires_grad_(False)


def _sample(path: Path, digest: Any) -> None:
    """Feed a file's size and up to `SAMPLES` evenly spaced pieces of it, first and last included, to a digest."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest.update(size.to_bytes(8, "big"))
        last = max(size - SAMPLE_BYTES, 0)
        count = min(SAMPLES, -(-size // SAMPLE_BYTES))
        for number in range(count):
            file.seek(last * number // max(count - 1, 1))
            digest.update(file.read(SAMPLE_BYTES))


def checkpoint(model: Model, weights: Files = None) -> Checkpoint:
    """The checkpoint of `model` in `weights`; without them where `lichtspiel use` says that it is, the one inside this
    package, or the one that was pulled, here or by another program that uses the hub's cache.

    `weights` is a folder (with its subfolders) or a file, or several of them that together hold all parts. Where they
    hold more than one of a part, the one that fits the model is taken.

    Raises WeightsError, with the remedy, when a part is missing, is incomplete, or belongs to another model; nothing
    is loaded until all parts are known to fit.
    """
    if weights is None:
        weights = _remembered(model) or (EMBEDDED if model.embedded else _local(model))
    paths = [Path(weights)] if isinstance(weights, Path | str) else [Path(one) for one in weights]
    scanned = scan(paths)
    _refuse_strangers(paths, scanned)
    parts = {part: _chosen(model, part, scanned, paths) for part in model.files}
    vae = spec_of(model, "vae", parts["vae"]) if "vae" in parts else None
    model = replace(model, vae=vae) if isinstance(vae, VAESpec) else model
    # A folder with a newly trained embedded model has other digests.
    return Checkpoint(model, parts, {} if model.embedded and paths != [EMBEDDED] else model.digests)


def diffusion_weights(model: Model, weights: Files) -> Mapping[str, Tensor]:
    """The weights of a model's diffusion transformer by their official names, each read on demand; `weights` need to
    hold no other part. Raises WeightsError as `checkpoint` does."""
    if weights is None:
        weights = _remembered(model) or (EMBEDDED if model.embedded else _local(model))
    paths = [Path(weights)] if isinstance(weights, Path | str) else [Path(one) for one in weights]
    scanned = scan(paths)
    _refuse_strangers(paths, scanned)
    return Weights(_chosen(model, "dit", scanned, paths), model.dit)


def _refuse_strangers(paths: list[Path], scanned: Scan) -> None:
    """Refuse files that the user named but that belong to no model, because they would be ignored."""
    strangers = {file.path: file for file in scanned.foreign}
    for path in paths:
        if path in scanned.failures and path.is_file():
            raise scanned.failures[path]
        if path not in strangers or not path.is_file():
            continue
        entries = strangers[path].entries
        if looks_like_lora(entries):
            raise WeightsError(f"{path} is a LoRA; name it with --lora instead of --weights")
        if title := quantizer(entries):
            raise WeightsError(
                f"{path} is quantized by {title}, which cannot be read; use a file in 16 bit, fp8 (e4m3) or GGUF"
            )
        example = next(iter(entries), "no tensors")
        raise WeightsError(f"{path} is no part of a Wan2.1 model: it holds {example}; leave it out of --weights")


def _remembered(model: Model) -> list[Path] | None:
    """Where the user's configuration says that the weights of a model are."""
    config = read_config()
    for path in config.weights.get(model.name, ()):
        if not os.path.exists(path):
            raise WeightsError(
                f"{path} does not exist, but {config.path} names it for {model.name}; tell the new place with "
                f"`lichtspiel use {model.name} PATH`, or forget it with `lichtspiel use {model.name} --forget`"
            )
    return config.weights.get(model.name)


def _local(model: Model) -> Path:
    """Where the files of a published model lie: where `lichtspiel pull` puts them, or in the cache of the hub."""
    folder = pulled(model.repository)
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    if (snapshot := cached(model)) is not None:
        return snapshot
    raise WeightsError(
        f"{model.name} does not ship with this package; get it with `lichtspiel pull {model.name}`, or name the folder "
        f"with the files of {model.repository} with --weights, or once and for all: lichtspiel use {model.name} FOLDER"
    )


def _fits(component: Component, model: Model) -> bool:
    """Whether the model can use a component."""
    spec = spec_of(model, component.part, component)
    return spec is not None and not compare(component, spec)


def _command(model: Model, scanned: Scan) -> str:
    """The command that names one file, or a folder of shards, for each part: the smallest where there are several."""
    words = ["lichtspiel use", model.name]
    for part in model.files:
        fitting = [one for one in scanned.parts if one.part == part and _fits(one, model)]
        if fitting:
            cheapest = min(fitting, key=lambda one: sum(path.stat().st_size for path in one.paths))
            words += [shlex.quote(str(path)) for path in cheapest.paths]
    return " ".join(dict.fromkeys(words))


def _chosen(model: Model, part: Part, scanned: Scan, paths: list[Path]) -> Component:
    """The one component of the files that matches the model."""
    spec = spec_of(model, part)
    assert spec is not None
    candidates = [component for component in scanned.parts if component.part == part]
    matching = [component for component in candidates if _fits(component, model)]
    if len(matching) > 1:
        first, second, *_ = matching
        raise WeightsError(
            f"{first.source} and {second.source} both hold the {TITLES[part]} of {model.name}; name the files to use, "
            f"not the folder, once and for all with: {_command(model, scanned)}"
        )
    if matching and not matching[0].problems:
        return matching[0]
    if scanned.failures and not matching:
        raise next(iter(scanned.failures.values()))
    for file in scanned.foreign if part == "dit" and not candidates else ():
        if title := quantizer(file.entries):
            raise WeightsError(
                f"{file.path} is quantized by {title}, which cannot be read; use a file in 16 bit, fp8 (e4m3) or GGUF"
            )
    if not candidates:
        named = ", ".join(str(path) for path in paths)
        raise WeightsError(
            f"{named} has no {model.files[part]}, nor the {TITLES[part]} in any other layout; it should hold the files "
            f"of {model.repository or model.name}, or name the file that has it as well"
        )
    nearest = min(candidates, key=lambda component: compare(component, spec).size)
    raise WeightsError(nearest.problems[0] if nearest.problems else describe(nearest, spec))
