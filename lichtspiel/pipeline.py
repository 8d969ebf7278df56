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
from lichtspiel.conditioning import condition, context, resize
from lichtspiel.errors import NonFinite, RequestError
from lichtspiel.models.clip import CLIPVision, preprocess
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.prepare import film_of, pictures_of
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
    pictures as [1, 4 + c, t, h, w] (None for models that take none), CLIP features [i, 257, w], and VACE's context
    [1, 2c + 64, r + t, h, w], where r references stand in front of the video's latents."""

    text: Tensor
    negative: Tensor | None
    pictures: Tensor | None
    clip: Tensor | None
    vace: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The state after one solver step: `index` of `total` steps is done, `latents` are the video's, [1, c, t, h, w]."""

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
        """Text, and pictures or a video if there are any, to conditions; raises MediaError for a file that cannot be
        read."""
        negative = self._text(request.negative) if request.guidance != 1 else None
        text = self._text(request.prompt)
        known: Tensor | None = None
        clip: Tensor | None = None
        spec = self.model.dit
        if request.image is not None:
            known, clip = self._pictures(request)
        elif spec.in_channels > spec.out_channels:
            width, height = request.size
            shape = (1, spec.in_channels - spec.out_channels, *latent_shape(request.frames, height, width))
            known = torch.zeros(shape, device=self.device)
        return Conditions(text, negative, known, clip, self._context(request) if spec.vace_layers else None)

    def _text(self, prompt: str) -> Tensor:
        ids = torch.tensor([self.tokenizer(prompt)], device=self.device)
        return _finite("text encoding", self.umt5(ids))

    def _pictures(self, request: Request) -> tuple[Tensor, Tensor | None]:
        """The known pictures as latents, and what CLIP sees in them, which gets them at their own resolution."""
        pictures = [picture.to(self.device) for picture in pictures_of(request)]
        # The official code resizes without antialiasing; a picture that shrinks to nano's size looks better with it.
        sized = [resize(picture, *request.size, antialias=self.model.embedded) for picture in pictures]
        last = sized[1] if len(sized) == 2 else None
        known = _finite("picture encoding", condition(self.vae, sized[0], last, request.frames))
        if self.model.clip is None:
            return known, None
        pixels = torch.cat([preprocess(picture[None], self.model.clip.image_size) for picture in pictures])
        return known, _finite("picture encoding", self.clip(pixels.to(self.dtype)))

    def _context(self, request: Request) -> Tensor:
        """VACE's context; a request without files has one, too, in which everything is made anew."""
        film = film_of(request)
        references = [reference.to(self.device) for reference in film.references]
        video, mask = film.video[None].to(self.device), film.mask.to(self.device)
        return _finite("video encoding", context(self.vae, video, mask, references))

    def noise(self, request: Request) -> Tensor:
        """The starting noise [1, c, r + t, h, w], with a frame for each of r references: drawn on the CPU, so that a
        seed means the same on every device."""
        width, height = request.size
        frames, rows, columns = latent_shape(request.frames, height, width)
        shape = (1, self.model.dit.out_channels, len(request.references) + frames, rows, columns)
        return torch.randn(shape, generator=torch.Generator().manual_seed(request.seed)).to(self.device)

    def denoise(self, conditions: Conditions, request: Request, start: Tensor | None = None) -> Iterator[Step]:
        """Walk from noise (or `start`, of the same shape) to latents, one step at a time; stop asking, and it stops
        computing. The frames of references are computed along and left out of what is handed on."""
        noise = self.noise(request) if start is None else start
        t, h, w = (side // patch for side, patch in zip(noise.shape[2:], PATCH, strict=True))
        batched = t * h * w <= BATCHED_TOKENS

        def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
            return self._guided(latents, timestep, conditions, request, batched)

        with torch.inference_mode():
            for index, latents in flow.solve(velocity, noise, request.solver, request.steps, request.shift):
                video = _finite(f"denoising step {index + 1}", latents)[:, :, len(request.references) :]
                yield Step(index + 1, request.steps, video)

    def _guided(
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, request: Request, batched: bool
    ) -> Tensor:
        """The velocity under guidance; without a negative prompt there is only one branch to compute."""
        inputs = (
            latents if conditions.pictures is None else torch.cat([latents, conditions.pictures.to(latents)], dim=1)
        )
        clip, vace, scale = conditions.clip, conditions.vace, request.context_scale
        if conditions.negative is None:
            velocity: Tensor = self.dit(inputs, timestep, conditions.text, image=clip, vace=vace, vace_scale=scale)
            return velocity
        branches = [conditions.text, conditions.negative]
        if batched:
            length = max(text.shape[1] for text in branches)
            padded = [torch.nn.functional.pad(text, (0, 0, 0, length - text.shape[1])) for text in branches]
            both = self.dit(
                inputs.repeat(2, 1, 1, 1, 1), timestep.repeat(2), torch.cat(padded),
                image=None if clip is None else clip.repeat(2, 1, 1),
                vace=None if vace is None else vace.repeat(2, 1, 1, 1, 1), vace_scale=scale,
            )  # fmt: skip
            positive, negative = both.chunk(2)
        else:
            positive, negative = (
                self.dit(inputs, timestep, text, image=clip, vace=vace, vace_scale=scale) for text in branches
            )
        return flow.guide(positive, negative, request.guidance)

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
