"""The road from a request to frames: encode, denoise, decode. Each is a function of what stands left of it.

    Request ─encode→ Conditions ─denoise→ Latents ─decode→ Frames

One pipeline serves every checkpoint; a task is which conditions are present. It writes no file: latents and frames are
handed back, so that a caller can keep, preview, cancel or move them.

Letters: b batch, c channels, t time, h height, w width.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from lichtspiel import flow
from lichtspiel.conditioning import condition, fit
from lichtspiel.errors import NonFinite, RequestError
from lichtspiel.media import load_image
from lichtspiel.models.clip import CLIPVision, preprocess
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.request import Request
from lichtspiel.spec import PATCH, STRIDE, Model, model
from lichtspiel.text import Tokenizer
from lichtspiel.weights.checkpoint import Checkpoint, checkpoint

__all__ = ["Conditions", "Pipeline", "Step", "load"]

BATCHED_TOKENS = 4096
"""Up to this many tokens both branches of guidance run as one batch; above, twice the memory buys no speed."""


@dataclass(frozen=True)
class Conditions:
    """What the DiT is told: text states [1, l, w], those of the negative prompt (None without guidance), the known
    pictures as [1, 4 + c, t, h, w] (None for models that take none), and CLIP features [i, 257, w]."""

    text: Tensor
    negative: Tensor | None
    pictures: Tensor | None
    clip: Tensor | None


@dataclass(frozen=True)
class Step:
    """The state after one solver step: `index` of `total` steps is done, `latents` are [1, c, t, h, w]."""

    index: int
    total: int
    latents: Tensor


@dataclass
class Pipeline:
    """The networks of one checkpoint on one device, each loaded when it is first needed."""

    model: Model
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Prompt to ids."""
        return self.checkpoint.tokenizer()

    @cached_property
    def umt5(self) -> UMT5:
        """Ids to text states."""
        return self.checkpoint.umt5(self.dtype).to(self.device)

    @cached_property
    def clip(self) -> CLIPVision:
        """Picture to image tokens."""
        return self.checkpoint.clip(self.dtype).to(self.device)

    @cached_property
    def dit(self) -> DiT:
        """Latents and conditions to velocity."""
        return self.checkpoint.dit(self.dtype).to(self.device)

    @cached_property
    def vae(self) -> VAE:
        """Pixels to latents and back; always in float32, as it was published."""
        return self.checkpoint.vae(torch.float32).to(self.device)

    def release(self, *parts: str) -> None:
        """Give the memory of networks back; they load again when they are needed."""
        for part in parts:
            self.__dict__.pop(part, None)
        gc.collect()

    @torch.inference_mode()
    def encode(self, request: Request) -> Conditions:
        """Text, and pictures if there are any, to conditions; raises MediaError for a picture that cannot be read."""
        negative = self._text(request.negative) if request.guidance != 1 else None
        text = self._text(request.prompt)
        pictures = [self._picture(path, request) for path in (request.image, request.last_image) if path]
        known: Tensor | None = None
        clip: Tensor | None = None
        spec = self.model.dit
        if pictures:
            first, last = pictures[0], pictures[1] if len(pictures) == 2 else None
            known = _finite("picture encoding", condition(self.vae, first, last, request.frames))
            if self.model.clip is not None:
                clip = self.clip(preprocess(torch.stack(pictures), self.model.clip.image_size).to(self.dtype))
        elif spec.in_channels > spec.out_channels:
            width, height = request.size
            shape = (1, spec.in_channels - spec.out_channels, *latent_shape(request.frames, height, width))
            known = torch.zeros(shape, device=self.device)
        return Conditions(text, negative, known, clip)

    def _text(self, prompt: str) -> Tensor:
        ids = torch.tensor([self.tokenizer(prompt)], device=self.device)
        return _finite("text encoding", self.umt5(ids))

    def _picture(self, path: Path, request: Request) -> Tensor:
        """A picture as [3, h, w] in [-1, 1], cut and resized to the video's size."""
        array = torch.from_numpy(load_image(path)).to(self.device)
        image = rearrange(array, "h w c -> c h w").float() / 127.5 - 1
        return fit(image, *request.size, antialias=self.model.embedded)

    def noise(self, request: Request) -> Tensor:
        """The starting noise [1, c, t, h, w]: drawn on the CPU, so that a seed means the same on every device."""
        width, height = request.size
        shape = (1, self.model.dit.out_channels, *latent_shape(request.frames, height, width))
        return torch.randn(shape, generator=torch.Generator().manual_seed(request.seed)).to(self.device)

    def denoise(self, conditions: Conditions, request: Request, start: Tensor | None = None) -> Iterator[Step]:
        """Walk from noise (or `start`) to latents, one step at a time; stop asking, and it stops computing."""
        noise = self.noise(request) if start is None else start
        t, h, w = (side // patch for side, patch in zip(noise.shape[2:], PATCH, strict=True))
        batched = t * h * w <= BATCHED_TOKENS

        def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
            return self._guided(latents, timestep, conditions, request.guidance, batched)

        with torch.inference_mode():
            for index, latents in flow.solve(velocity, noise, request.solver, request.steps, request.shift):
                yield Step(index + 1, request.steps, _finite(f"denoising step {index + 1}", latents))

    def _guided(
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, guidance: float, batched: bool
    ) -> Tensor:
        """The velocity under guidance; without a negative prompt there is only one branch to compute."""
        inputs = (
            latents if conditions.pictures is None else torch.cat([latents, conditions.pictures.to(latents)], dim=1)
        )
        clip = conditions.clip
        if conditions.negative is None:
            velocity: Tensor = self.dit(inputs, timestep, conditions.text, image=clip)
            return velocity
        branches = [conditions.text, conditions.negative]
        if batched:
            length = max(text.shape[1] for text in branches)
            padded = [torch.nn.functional.pad(text, (0, 0, 0, length - text.shape[1])) for text in branches]
            both = self.dit(
                inputs.repeat(2, 1, 1, 1, 1), timestep.repeat(2), torch.cat(padded),
                image=None if clip is None else clip.repeat(2, 1, 1),
            )  # fmt: skip
            positive, negative = both.chunk(2)
        else:
            positive, negative = (self.dit(inputs, timestep, text, image=clip) for text in branches)
        return flow.guide(positive, negative, guidance)

    def decode(self, latents: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Frames [h, w, 3] of latents [1, c, t, h, w], one after another; memory does not grow with their number."""
        with torch.inference_mode():
            for chunk in self.vae.decode(latents.to(self.device).float()):
                pixels = (_finite("decoding", chunk)[0] * 127.5 + 127.5).round().to(torch.uint8)
                yield from rearrange(pixels, "c t h w -> t h w c").cpu().numpy()


def latent_shape(frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Latent frames, rows and columns of a video."""
    return 1 + (frames - 1) // STRIDE[0], height // STRIDE[1], width // STRIDE[2]


def _finite(stage: str, values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise NonFinite(stage, "try --dtype float32, or check the weights with another prompt")
    return values


def choose_device(asked: str) -> torch.device:
    """The device of that name; "auto" takes a GPU if there is one. Raises RequestError when it is not there."""
    there = ["cpu"]
    if torch.cuda.is_available():
        there = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *there]
    if torch.backends.mps.is_available():
        there = ["mps", *there]
    if asked == "auto":
        return torch.device(there[0])
    if asked not in there:
        raise RequestError("device", asked, f"this machine has {', '.join(there)}", there[0])
    return torch.device(asked)


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """The precision of that name; "auto" is bfloat16 on GPUs, and float32 on processors, where 16 bit is slower."""
    if asked == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[asked]


def load(request: Request, weights: Path | None = None) -> Pipeline:
    """The pipeline for a request's checkpoint, device and precision; networks load when they are first used.

    Raises WeightsError when files are missing, RequestError when the device is not there.
    """
    row = model(request.model)
    device = choose_device(request.device)
    return Pipeline(row, checkpoint(row, weights), device, choose_dtype(request.dtype, device))
