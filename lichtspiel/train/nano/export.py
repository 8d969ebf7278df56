"""Exports the weights of a run to files that the package loads, and reads them back to start another run."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput
from lichtspiel.storage import atomic_write
from lichtspiel.train.latents import LatentStore
from lichtspiel.weights.components import open_file

__all__ = ["export", "load_exported"]

FILE_BYTES = 15_000_000
"""Larger weights are split into files of at most this size, which are easier to move."""

EXTRA = ("latent_mean", "latent_std", "vocabulary")
"""Tensors that the files contain besides those of the networks."""


def export(networks: dict[str, nn.Module], store: LatentStore, vocabulary: list[int], folder: Path) -> list[Path]:
    """Write "vae", "umt5" and "dit" in 16-bit precision, with the latent statistics and the vocabulary.

    Returns the paths of the files.
    """
    tensors = {name: _half(network.state_dict()) for name, network in networks.items()}
    tensors["vae"] |= {"latent_mean": store.mean.float(), "latent_std": store.std.float()}
    tensors["umt5"]["vocabulary"] = torch.tensor(vocabulary, dtype=torch.int32)
    folder.mkdir(parents=True, exist_ok=True)
    return [path for name, part in tensors.items() for path in _write(part, folder, name)]


def load_exported(folder: Path | None, *parts: str) -> dict[str, dict[str, Tensor]]:
    """Weights of some parts that `export` wrote, or that are embedded in this package, to start another run from; none
    without a folder.

    Raises InvalidInput if they do not exist.
    """
    weights: dict[str, dict[str, Tensor]] = {}
    if folder is None:
        return weights
    for part in parts:
        names = (f"{part}.safetensors", f"{part}-*.safetensors", f"{part}.gguf")
        files = [open_file(path) for name in names for path in sorted(folder.glob(name))]
        if not files:
            raise InvalidInput(f"{folder} holds no {part} to start from; name the folder a recipe wrote weights to")
        weights[part] = {name: file.read(name).float() for file in files for name in file.entries}
        for name in EXTRA:
            weights[part].pop(name, None)
    return weights


def _write(tensors: dict[str, Tensor], folder: Path, name: str) -> list[Path]:
    """Write one file, or several of at most `FILE_BYTES`, named like the published shards."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in tensors.items():
        size += value.nbytes
        if size > FILE_BYTES and shards[-1]:
            shards.append({})
            size = value.nbytes
        shards[-1][key] = value
    count = len(shards)
    names = [name] if count == 1 else [f"{name}-{number:05d}-of-{count:05d}" for number in range(1, count + 1)]
    for previous in folder.glob(f"{name}*.safetensors"):
        previous.unlink()
    for shard, stem in zip(shards, names, strict=True):
        with atomic_write(folder / f"{stem}.safetensors") as draft:
            save_file(shard, draft)
    return [folder / f"{stem}.safetensors" for stem in names]


def _half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half().contiguous() for name, value in tensors.items()}
