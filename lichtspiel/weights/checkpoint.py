"""One checkpoint's networks, each loaded from its own file when it is asked for.

Knows the embedded model and the official folder layout. It chooses no precision and moves nothing between devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from lichtspiel.errors import WeightsError
from lichtspiel.models.clip import PREFIX, CLIPVision, unused
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import LATENT_MEAN, LATENT_STD, Model, Part
from lichtspiel.text import Tokenizer
from lichtspiel.weights.reading import check_digest, fill, read

__all__ = ["Checkpoint", "checkpoint"]

Module = TypeVar("Module", bound=nn.Module)

EMBEDDED = Path(__file__).parent.parent / "nano"


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model; each method reads one network into memory in the precision asked for."""

    model: Model
    folder: Path

    def _tensors(self, part: Part) -> tuple[dict[str, Tensor], Path]:
        pattern = self.model.files[part]
        paths = sorted(self.folder.glob(pattern))
        if not paths:
            raise WeightsError(f"{self.folder} has no {pattern}; it should hold the files of {self.model.repository}")
        tensors: dict[str, Tensor] = {}
        # Whoever trains the embedded model anew names a folder, whose files have digests of their own.
        known = {} if self.model.embedded and self.folder != EMBEDDED else self.model.digests
        for path in paths:
            if path.name in known:
                check_digest(path, known[path.name])
            tensors |= read(path)
        return tensors, self.folder / pattern

    def tokenizer(self) -> Tokenizer:
        """The UMT5 tokenizer, reduced to the model's own vocabulary where it has one."""
        vocabulary = None
        if self.model.embedded:
            vocabulary = self._tensors("umt5")[0]["vocabulary"].tolist()
        return Tokenizer.umt5(self.model.dit.text_length, vocabulary)

    def umt5(self, dtype: torch.dtype) -> UMT5:
        """The text encoder."""
        tensors, source = self._tensors("umt5")
        tensors.pop("vocabulary", None)
        with torch.device("meta"):
            module = UMT5(self.model.umt5)
        fill(module, tensors, source, dtype)
        return _frozen(module)

    def dit(self, dtype: torch.dtype) -> DiT:
        """The diffusion transformer."""
        tensors, source = self._tensors("dit")
        with torch.device("meta"):
            module = DiT(self.model.dit)
        fill(module, tensors, source, dtype)
        return _frozen(module)

    def vae(self, dtype: torch.dtype) -> VAE:
        """The video VAE with its latent statistics: from the file for the embedded model, else the published ones."""
        tensors, source = self._tensors("vae")
        mean: list[float] = tensors.pop("latent_mean", torch.tensor(LATENT_MEAN)).tolist()
        std: list[float] = tensors.pop("latent_std", torch.tensor(LATENT_STD)).tolist()
        module = VAE(self.model.vae, mean, std)
        fill(module, tensors, source, dtype)
        return _frozen(module)

    def clip(self, dtype: torch.dtype) -> CLIPVision:
        """The image encoder of checkpoints with image cross-attention; its file holds more than is used."""
        assert self.model.clip is not None
        tensors, source = self._tensors("clip")
        skip = unused(self.model.clip)
        used = {name.removeprefix(PREFIX): value for name, value in tensors.items() if not name.startswith(skip)}
        with torch.device("meta"):
            module = CLIPVision(self.model.clip)
        fill(module, used, source, dtype)
        return _frozen(module)


def _frozen(module: Module) -> Module:
    return module.eval().requires_grad_(False)


def checkpoint(model: Model, folder: Path | None) -> Checkpoint:
    """The checkpoint of `model` in `folder`, or the one inside this package when the model is embedded.

    Raises WeightsError with what to do when a folder is needed and not given, or a part's file is not there.
    """
    if folder is None:
        if not model.embedded:
            raise WeightsError(
                f"{model.name} does not ship with this package; download {model.repository} and name its folder "
                "with --weights"
            )
        folder = EMBEDDED
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder; --weights takes the folder of {model.repository or model.name}")
    for pattern in model.files.values():
        if not any(folder.glob(pattern)):
            raise WeightsError(f"{folder} has no {pattern}; it should hold the files of {model.repository or 'nano'}")
    return Checkpoint(model, folder)
