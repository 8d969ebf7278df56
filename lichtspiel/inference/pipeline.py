"""The road from a request to frames: encode, denoise, decode. Each is a function of what stands left of it.

    Request ─encode→ Conditions ─denoise→ Latents ─decode→ Frames

One pipeline serves every checkpoint; a task is which conditions are present. It writes no file: latents and frames are
handed back, so that a caller can keep, preview, cancel or move them.

Letters: b batch, c channels, t time, h height, w width.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from lichtspiel import flow
from lichtspiel.errors import NonFinite, OutOfMemory, RequestError
from lichtspiel.host import computing_dtype, free_memory, measure_rate
from lichtspiel.inference import prompt_cache
from lichtspiel.inference.conditioning import image_condition, resize, vace_context
from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.plan import BATCHED_TOKENS, Plan, plan
from lichtspiel.inference.preprocess import film_of, pictures_of
from lichtspiel.inference.quantize import quantize
from lichtspiel.lora import LoRA, apply, match, read_lora
from lichtspiel.models.clip import CLIPVision, preprocess
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.request import Request
from lichtspiel.spec import Model, Part, model
from lichtspiel.tokenizer import Tokenizer
from lichtspiel.weights.checkpoint import Checkpoint, Files, checkpoint

__all__ = ["Conditions", "Files", "Pipeline", "Step", "estimate", "load"]


@dataclass(frozen=True)
class Conditions:
    """What the DiT is told: text states [1, l, w], those of the negative prompt (None without guidance), the known
    pictures as [1, 4 + c, t, h, w] (None for models that take none), CLIP features [i, 257, w], and VACE's context
    [1, 2c + 64, r + t, h, w], where r references stand in front of the video's latents."""

    text: Tensor
    negative: Tensor | None
    image_condition: Tensor | None
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
    """The networks of one checkpoint on one device, each loaded when it is first needed, as `plan` says.

    `precision` is the name of what the DiT computes in; with int8 everything else is float32. `notes` say what a
    person should know before the work begins: how the LoRAs fit, and what may not fit into memory.
    """

    model: Model
    checkpoint: Checkpoint
    device: torch.device
    precision: str
    plan: Plan
    loras: list[tuple[LoRA, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _texts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """What tensors are made of, but for the VAE, which is always in float32, as it was published."""
        return getattr(torch, self.precision) if self.precision != "int8" else torch.float32

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Prompt to ids."""
        return self.checkpoint.tokenizer()

    @cached_property
    def umt5(self) -> UMT5:
        """Ids to text states."""
        return self.checkpoint.umt5(self.dtype, self.device, resident=self.plan.stage("umt5").resident)

    @cached_property
    def clip(self) -> CLIPVision:
        """Picture to image tokens."""
        return self.checkpoint.clip(self.dtype, self.device)

    @cached_property
    def dit(self) -> DiT:
        """Latents and conditions to velocity, with the LoRAs: in the weights where all of them are there, else beside
        them."""
        stage, int8 = self.plan.stage("dit"), self.precision == "int8"
        dit = self.checkpoint.dit(self.dtype, self.device, resident=stage.resident, each=quantize if int8 else None)
        if self.loras:
            apply(dit, self.loras, merge=not (stage.streamed or int8), partial=True)  # `load` has checked the match
        return dit

    @cached_property
    def vae(self) -> VAE:
        """Pixels to latents and back."""
        vae = self.checkpoint.vae(torch.float32, self.device)
        vae.chunk_frames = self.plan.chunk_frames
        return vae

    def release(self, *parts: str) -> None:
        """Give the memory of networks back; they load again when they are needed."""
        for part in parts:
            self.__dict__.pop(part, None)
        gc.collect()

    @cached_property
    def _encoder(self) -> str:
        """A name for the text encoder, by which its states are found again on disk."""
        return prompt_cache.fingerprint(self.checkpoint.parts["umt5"].paths, f"{self.dtype} on {self.device.type}")

    def uncached_prompts(self, requests: Iterable[Request]) -> list[str]:
        """The texts of some requests that the text encoder has not read yet, now or in an earlier run."""
        texts = dict.fromkeys(text for request in requests for text in _texts(request) if text not in self._texts)
        for text in texts:
            if (states := prompt_cache.get(text, self._encoder)) is not None:
                self._texts[text] = states
        return [text for text in texts if text not in self._texts]

    def load_encoders(self, request: Request) -> None:
        """Load what `encode` will need; no text encoder where the texts are known."""
        if self.uncached_prompts([request]):
            _ = self.umt5

    def serves(self, request: Request) -> bool:
        """Whether a request wants these networks with these LoRAs, and no more memory than was planned with."""
        device = choose_device(request.device)
        wanted = [(adapter.path, adapter.strength) for adapter in request.lora]
        return (
            (request.model, device, choose_precision(request.dtype, device))
            == (self.model.name, self.device, self.precision)
            and wanted == [(lora.path, strength) for lora, strength in self.loras]
            and request.pixels <= math.prod(self.plan.size) * self.plan.frames
        )

    @torch.inference_mode()
    def encode_prompts(self, texts: Iterable[str]) -> None:
        """Encode texts, for this pipeline and for later runs."""
        for text in texts:
            ids = torch.tensor([self.tokenizer(text)], device=self.device)
            self._texts[text] = _finite("text encoding", self.umt5(ids)).cpu()
            prompt_cache.put(text, self._encoder, self._texts[text])

    @torch.inference_mode()
    def encode(self, request: Request) -> Conditions:
        """Text, and pictures or a video if there are any, to conditions; raises MediaError for a file that cannot be
        read."""
        self.encode_prompts(self.uncached_prompts([request]))
        text, *others = (self._texts[text].to(self.device) for text in _texts(request))
        negative = others[0] if others else None
        condition: Tensor | None = None
        clip: Tensor | None = None
        spec = self.model.dit
        if request.image is not None:
            condition, clip = self._pictures(request)
        elif spec.in_channels > spec.out_channels:
            cells = self.model.latent_shape(request.frames, request.size)
            shape = (1, spec.in_channels - spec.out_channels, *cells)
            condition = torch.zeros(shape, device=self.device)
        return Conditions(text, negative, condition, clip, self._context(request) if spec.vace_layers else None)

    def _pictures(self, request: Request) -> tuple[Tensor, Tensor | None]:
        """The known pictures as latents, and what CLIP sees in them, which gets them at their own resolution."""
        pictures = [picture.to(self.device) for picture in pictures_of(request)]
        # The official code resizes without antialiasing; a picture that shrinks to nano's size looks better with it.
        sized = [resize(picture, *request.size, antialias=self.model.embedded) for picture in pictures]
        last = sized[1] if len(sized) == 2 else None
        condition = _finite("picture encoding", image_condition(self.vae, sized[0], last, request.frames))
        if self.model.clip is None:
            return condition, None
        pixels = torch.cat([preprocess(picture[None], self.model.clip.image_size) for picture in pictures])
        return condition, _finite("picture encoding", self.clip(pixels.to(self.dtype)))

    def _context(self, request: Request) -> Tensor:
        """VACE's context; a request without files has one, too, in which everything is made anew."""
        film = film_of(request)
        references = [reference.to(self.device) for reference in film.references]
        video, mask = film.video[None].to(self.device), film.mask.to(self.device)
        return _finite("video encoding", vace_context(self.vae, video, mask, references))

    def noise(self, request: Request) -> Tensor:
        """The starting noise [1, c, r + t, h, w], with a frame for each of r references: drawn on the CPU, so that a
        seed means the same on every device."""
        frames, rows, columns = self.model.latent_shape(request.frames, request.size)
        shape = (1, self.model.dit.out_channels, len(request.references) + frames, rows, columns)
        return torch.randn(shape, generator=torch.Generator().manual_seed(request.seed)).to(self.device)

    def denoise(self, conditions: Conditions, request: Request, start: Tensor | None = None) -> Iterator[Step]:
        """Walk from noise (or `start`, of the same shape) to latents, one step at a time; stop asking, and it stops
        computing. The frames of references are computed along and left out of what is handed on."""
        noise = self.noise(request) if start is None else start
        batched = self.model.dit.tokens(noise.shape[2:]) <= BATCHED_TOKENS

        text, negative = conditions.text, conditions.negative
        with torch.inference_mode(), kv_cache(self.dit):
            network = self._network(conditions, request)
            velocity = flow.guided(network, text, negative, request.guidance, batched=batched)
            for index, latents in flow.sample(velocity, noise, request.solver, request.steps, request.shift):
                video = _finite(f"denoising step {index + 1}", latents)[:, :, len(request.references) :]
                yield Step(index + 1, request.steps, video)

    def _network(self, conditions: Conditions, request: Request) -> flow.Network:
        """The DiT with every condition but the text."""
        known, clip, vace = conditions.image_condition, conditions.clip, conditions.vace

        def network(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            count = len(latents)  # 2 where both branches of guidance are one batch
            inputs = latents if known is None else torch.cat([latents, known.repeat(count, 1, 1, 1, 1).to(latents)], 1)
            velocity: Tensor = self.dit(
                inputs, timestep, text,
                image=None if clip is None else clip.repeat(count, 1, 1),
                vace=None if vace is None else vace.repeat(count, 1, 1, 1, 1), vace_scale=request.context_scale,
            )  # fmt: skip
            return velocity

        return network

    def decode(self, latents: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Frames [h, w, 3] of latents [1, c, t, h, w], one after another; memory does not grow with their number."""
        with torch.inference_mode():
            for chunk in self.vae.decode(latents.to(self.device).float()):
                pixels = (_finite("decoding", chunk)[0] * 127.5 + 127.5).round().to(torch.uint8)
                yield from rearrange(pixels, "c t h w -> t h w c").cpu().numpy()


def _texts(request: Request) -> list[str]:
    """What the text encoder reads: the prompt, and the negative prompt where there is guidance."""
    return [request.prompt] if request.guidance == 1 else [request.prompt, request.negative]


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


def choose_precision(asked: str, device: torch.device) -> str:
    """The precision of that name; "auto" is the fastest without loss (`memory.computing_dtype`). Raises RequestError
    for int8 on a GPU."""
    if asked == "int8" and device.type != "cpu":
        raise RequestError("dtype", asked, "eight-bit layers are for processors", "bfloat16")
    return str(computing_dtype(device.type)).removeprefix("torch.") if asked == "auto" else asked


def load(request: Request, weights: Files = None) -> Pipeline:
    """The pipeline for a request's checkpoint, LoRAs, device and precision; networks load when they are first used.

    Raises WeightsError when files are missing or do not fit, RequestError when the device is not there, and
    OutOfMemory when it is certain that the memory does not suffice.
    """
    row = model(request.model)
    device = choose_device(request.device)
    precision = choose_precision(request.dtype, device)
    found = checkpoint(row, weights)
    loras = [(read_lora(adapter.path), adapter.strength) for adapter in request.lora]
    reports = [match(lora, row) for lora, _ in loras]
    for report in reports:
        report.check(partial=request.lora_partial)
    frames = request.frames + row.vae.stride[0] * len(request.references)
    planned = _plan(row, request.size, frames, device, precision, sizes=found.sizes())
    if planned.refusal:
        raise OutOfMemory(f"{planned.refusal}; take a smaller size, fewer frames or a smaller model")
    notes = [*map(str, reports), *planned.warnings]
    return Pipeline(row, found, device, precision, planned, loras, notes)


def estimate(
    row: Model, size: tuple[int, int], frames: int, *, device: str, dtype: str, gigabytes: float | None, weights: Files
) -> Plan:
    """The plan for a job before there is one, with times from a measurement of this machine's speed. `gigabytes` is
    planned with instead of what is free now; the weights' files count as they are where `weights` are given."""
    place = choose_device(device)
    precision = choose_precision(dtype, place)
    sizes = checkpoint(row, weights).sizes() if weights or row.embedded else None
    exact = torch.float32 if precision == "int8" else getattr(torch, precision)
    free = None if gigabytes is None else int(gigabytes * 1e9)
    return _plan(row, size, frames, place, precision, sizes=sizes, free=free, rate=measure_rate(str(place), exact))


def _plan(
    row: Model, size: tuple[int, int], frames: int, device: torch.device, precision: str, *,
    sizes: dict[Part, int] | None, free: int | None = None, rate: float | None = None,
) -> Plan:  # fmt: skip
    return plan(
        row, size=size, frames=frames, device=str(device), dtype=getattr(torch, precision),
        free_bytes=free_memory(str(device)) if free is None else free, files_bytes=sizes, rate=rate,
    )  # fmt: skip
