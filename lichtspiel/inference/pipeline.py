"""The pipeline from a request to frames: encode, denoise, decode.

    Request ─encode→ Conditions ─denoise→ Latents ─decode→ Frames

One pipeline serves every checkpoint; the task follows from which conditions are present. The pipeline writes no files:
it returns latents and frames, so that callers can store or preview them, or cancel the work.

Letters: b batch, c channels, t time, h height, w width.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar, cast

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from lichtspiel import distilled, flow
from lichtspiel.errors import OutOfMemory
from lichtspiel.inference import prompt_cache
from lichtspiel.inference.adapters import read_adapters
from lichtspiel.inference.clock import Clock
from lichtspiel.inference.compiled import can_compile, compile_blocks, compiling
from lichtspiel.inference.conditioning import image_condition, resize, vace_context
from lichtspiel.inference.conditions import Conditions, begun, finite, within_memory
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.inference.device import choose_device, choose_precision, exact_dtype
from lichtspiel.inference.estimate import plan_for
from lichtspiel.inference.fp8 import BlocksInFP8
from lichtspiel.inference.gpu import exact_convolutions, use_gpu_layout
from lichtspiel.inference.guidance import Guidance, nag, skipping
from lichtspiel.inference.inputs import Inputs, read_inputs
from lichtspiel.inference.kernels import attention_for, use_attention
from lichtspiel.inference.kv_cache import kv_cache
from lichtspiel.inference.magcache import Curve, MagCache, Recorder, parse, reusing
from lichtspiel.inference.norms import unfit
from lichtspiel.inference.parallel import Share, Team, current, sharing
from lichtspiel.inference.pixels import to_bytes
from lichtspiel.inference.plan import BATCHED_TOKENS, Plan
from lichtspiel.inference.preprocess import given_parts, pictures_of, vace_inputs
from lichtspiel.inference.quantize import quantize
from lichtspiel.inference.windows import riflex, seen_tokens, windowed
from lichtspiel.lora import LoRA, apply, prepare, remove
from lichtspiel.models.clip import CLIPVision, preprocess
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.request import Request
from lichtspiel.spec import Model, Part, model
from lichtspiel.tokenizer import Tokenizer
from lichtspiel.weights.checkpoint import Checkpoint, Files, checkpoint
from lichtspiel.weights.offload import Each

__all__ = ["Conditions", "Files", "Pipeline", "Step", "load"]

Item = TypeVar("Item")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Step:
    """The state after a solver step: `index` of `total` steps are done; `latents` [1, c, t, h, w] are the video's."""

    index: int
    total: int
    latents: Tensor


@dataclass
class Pipeline:
    """The networks of one checkpoint on one device, for all requests that it `serves`.

    Each stage first releases the networks that the plan has no room for, and then loads those it needs. So callers
    only need to run the stages:

        conditions = pipeline.encode(request)
        for step in pipeline.denoise(conditions, request):
            ...
        for frame in pipeline.decode(step.latents):
            ...

    `precision` is what the DiT computes in; with int8, everything else is float32, with fp8 bfloat16. `attention` is
    the kernel of its self-attention, `compiled` whether its blocks are, and `vae_precision` what the VAE computes in.
    `notes` tell the user, before the work starts, how well the LoRAs match and what may not fit into memory. `clock`
    times the stages; callers may replace it with their own. `evaluations` says how many evaluations of the DiT the last
    denoising took so far, and how many plain guidance would have taken. With a `team`, several processes denoise, each
    with a pipeline of its own. Every stage raises OutOfMemory if memory runs out.
    """

    model: Model
    checkpoint: Checkpoint
    device: torch.device
    precision: str
    plan: Plan
    attention: str = "sdpa"
    compiled: bool = False
    vae_precision: str = "float32"
    loras: list[tuple[LoRA, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    evaluations: tuple[int, int] = (0, 0)
    swappable: bool = False
    team: Team | None = None
    _networks: dict[Part, nn.Module] = field(default_factory=dict)
    _lent: DiT | None = None
    _text_states: dict[str, Tensor] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all tensors except the VAE's, which are float32, as in its published checkpoint."""
        return exact_dtype(self.precision)

    @property
    def loaded(self) -> frozenset[Part]:
        """The networks that are currently in memory."""
        return frozenset(self._networks)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which turns a prompt into token ids."""
        return self.checkpoint.tokenizer()

    def serves(self, request: Request) -> bool:
        """Whether a request needs exactly these networks, LoRAs too unless they are swapped, and no more pixels."""
        device = choose_device(request.device)
        return (
            (request.model, device, *_chosen(request, device))
            == (self.model.name, self.device, self.precision, self.attention, self.compiled, self.vae_precision)
            and (self._has(request) or (self.swappable and not self.compiled))
            and math.prod(request.size) * request.seen <= math.prod(self.plan.size) * self.plan.frames
        )

    def swap(self, request: Request) -> None:
        """Exchange the LoRAs for those of a request that this pipeline serves; loaded networks stay.

        Raises WeightsError for LoRAs that do not match; the pipeline then has none.
        """
        if self._has(request):
            return
        self.loras, self.notes = [], []
        dit = self._networks.get("dit")
        if isinstance(dit, DiT):
            remove(dit)
        found = read_adapters(request, self.model)
        if isinstance(dit, DiT):
            apply(dit, found.loras, merge=False, partial=True)
        names = [str(path) for path in (*found.paths, *self.checkpoint.parts["dit"].paths)]
        notes = [*found.notes, *self.plan.warnings, *distilled.notes(dict(request), names)]
        self.loras, self.notes = found.loras, notes

    def _has(self, request: Request) -> bool:
        wanted = [(adapter.path, adapter.strength) for adapter in request.lora]
        return wanted == [(lora.path, strength) for lora, strength in self.loras]

    @contextmanager
    def lend(self, dit: DiT) -> Iterator[None]:
        """Inside the block, denoise with this DiT, which the caller keeps: one in training, with its adapter on."""
        self._lent = dit
        try:
            yield
        finally:
            self._lent = None
            self.release()

    def release(self) -> None:
        """Release all networks; they load again when they are needed."""
        self._networks.clear()
        gc.collect()

    def uncached_prompts(self, requests: Iterable[Request]) -> list[str]:
        """The texts of some requests that have not been encoded yet, in this run or an earlier one."""
        texts = dict.fromkeys(text for request in requests for text in _texts(request))
        missing = [text for text in texts if text not in self._text_states]
        for text in missing:
            if (states := prompt_cache.get(text, self._encoder)) is not None:
                self._text_states[text] = states
        return [text for text in missing if text not in self._text_states]

    @torch.inference_mode()
    def encode_prompts(self, requests: Iterable[Request]) -> None:
        """Encode the texts of many requests while the text encoder is loaded; `encode` then finds them in the cache.

        If all texts are cached, the text encoder is not loaded.
        """
        texts = self.uncached_prompts(requests)
        if not texts:
            return
        with self._stage("encode", "umt5"):
            umt5 = self._umt5()
            for text in texts:
                ids = torch.tensor([self.tokenizer(text)], device=self.device)
                self._text_states[text] = finite("text encoding", umt5(ids)).cpu()
                prompt_cache.put(text, self._encoder, self._text_states[text])

    @torch.inference_mode()
    def encode(self, request: Request, inputs: Inputs | None = None) -> Conditions:
        """Encode the texts of a request, and its pictures or video if it has any, into conditions.

        `inputs` are the decoded files of the request. Without them, the files are read now; raises MediaError for a
        file that cannot be read.
        """
        inputs = read_inputs(request) if inputs is None else inputs
        self.encode_prompts([request])
        with self._stage("encode", "vae", "clip"):
            text, *negatives = (self._text_states[text].to(self.device) for text in _texts(request))
            condition: Tensor | None = None
            clip: Tensor | None = None
            spec = self.model.dit
            if request.image is not None:
                condition, clip = self._pictures(request, inputs)
            elif spec.in_channels > spec.out_channels:
                cells = self.model.latent_shape(request.frames, request.size)
                shape = (1, spec.in_channels - spec.out_channels, *cells)
                condition = torch.zeros(shape, device=self.device)
            vace = self._context(request, inputs) if spec.vace_layers else None
            begin = self._latents(request, inputs) if request.strength < 1 else None
            return Conditions(text, negatives[0] if negatives else None, condition, clip, vace, begin)

    def _pictures(self, request: Request, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """The condition made from the pictures, and their CLIP features; CLIP sees them at their own resolution."""
        pictures = [picture.to(self.device) for picture in pictures_of(request, inputs)]
        # The official code resizes without antialiasing, but pictures shrunk to nano's size look better with it.
        sized = [resize(picture, *request.size, antialias=self.model.embedded) for picture in pictures]
        last = sized[1] if len(sized) == 2 else None
        condition = finite("picture encoding", image_condition(self._vae(), sized[0], last, request.frames))
        if self.model.clip is None:
            return condition, None
        pixels = torch.cat([preprocess(picture[None], self.model.clip.image_size) for picture in pictures])
        return condition, finite("picture encoding", self._clip()(pixels.to(self.dtype)))

    def _context(self, request: Request, inputs: Inputs) -> Tensor:
        """VACE's context. A request without files has one too: all of the video is generated."""
        edit = vace_inputs(request, inputs)
        references = [reference.to(self.device) for reference in edit.references]
        video, mask = edit.video[None].to(self.device), edit.mask.to(self.device)
        return finite("video encoding", vace_context(self._vae(), video, mask, references))

    def _latents(self, request: Request, inputs: Inputs) -> Tensor:
        """The latents of the video that a request starts from."""
        parts = given_parts(request, inputs, self.model.vae.stride[0])
        return finite("video encoding", self._vae().encode_parts(part.to(self.device) for part in parts))

    def noise(self, request: Request, generator: torch.Generator | None = None) -> Tensor:
        """The initial noise [1, c, r + t, h, w], which includes a latent frame for each of r references.

        It is drawn on the CPU, so that a seed gives the same noise on every device; by `generator`, if it has that seed
        and is to draw more.
        """
        frames, rows, columns = self.model.latent_shape(request.frames, request.size)
        shape = (1, self.model.dit.out_channels, len(request.references) + frames, rows, columns)
        generator = generator or torch.Generator().manual_seed(request.seed)
        return torch.randn(shape, generator=generator).to(self.device)

    def denoise(
        self, conditions: Conditions, request: Request, start: Tensor | None = None, recorder: Recorder | None = None
    ) -> Generator[Step]:
        """Denoise from noise (or from `start`, of the same shape) to latents, one solver step at a time.

        The computation ends when the caller stops iterating. The latents of references are computed too, but left out
        of each `Step`. A `recorder` measures what MagCache needs to know.
        """
        generator = torch.Generator().manual_seed(request.seed)
        noise = self.noise(request, generator)
        noise, skipped = noise if start is None else start, request.steps - request.steps_taken
        noise = begun(conditions, noise, request)
        curve = self.curve(request)
        if self.team is not None and self.team.leads:
            self.team.hand_out((request, conditions.on("cpu"), None if start is None else start.cpu()))
        with self._stage("denoise", "dit"):
            dit = self._dit()
        share = None if self.team is None else self._share(self.team, request)
        guidance = Guidance(
            windowed(dit, conditions, request),
            conditions.text,
            None if request.guidance == 1 else conditions.negative,
            request,
            # MagCache looks at each branch by itself.
            batched=curve is None and recorder is None and seen_tokens(request) <= BATCHED_TOKENS,
            skip=partial(skipping, dit, request.skip_layers),
            skipped=skipped,
        )
        if share is not None and share.branches == 2 and conditions.negative is not None:
            guidance.both = partial(share.both, guidance.network, conditions.text, conditions.negative)
        blocks = None if curve is None else MagCache(curve, request.steps, skipped)

        def steps() -> Iterator[Step]:
            grid = (request.solver, request.steps, request.shift)
            run = flow.sample(guidance, noise, *grid, times=request.times, generator=generator, skipped=skipped)
            for index, latents in run if self.team is None else self.team.together(run):
                self.evaluations = (guidance.evaluations - (blocks.spared if blocks else 0), guidance.full)
                if blocks is not None:
                    blocks.step = skipped + index + 1
                video = finite(f"denoising step {index + 1}", latents)[:, :, len(request.references) :]
                yield Step(index + 1, request.steps_taken, video)

        timing = compiling(self.clock) if self.compiled else nullcontext()
        negative = conditions.negative if request.nag else None
        steering = nullcontext() if negative is None else nag(dit, negative, request.nag, compiled=self.compiled)
        with (
            timing,
            kv_cache(dit, compiled=self.compiled),
            reusing(dit, recorder or blocks),
            nullcontext() if share is None else sharing(dit, share, compiled=self.compiled),
            riflex(dit, request.riflex),
            steering,
        ):
            yield from self._within("denoise", "dit", steps())

    def _share(self, team: Team, request: Request) -> Share:
        """What this process computes. MagCache follows both branches, so they stay together then."""
        guided = request.guidance != 1 and self.curve(request) is None
        return team.share(heads=self.model.dit.heads, guided=guided)

    def curve(self, request: Request) -> Curve | None:
        """The curve and settings of MagCache for a request, or None; raises RequestError if no curve is known."""
        if request.magcache == "off":
            return None
        return parse(request.magcache, self.model.name, self.checkpoint.fingerprints()["dit"])

    def decode(self, latents: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Decode latents [1, c, t, h, w] to frames [h, w, 3], one at a time; memory does not grow with their number."""
        with self._stage("decode", "vae"):
            vae = self._vae()

        def frames() -> Iterator[NDArray[np.uint8]]:
            for chunk in vae.decode(latents.to(self.device).float()):
                levels = to_bytes(finite("decoding", chunk)[0])
                yield from rearrange(levels, "c t h w -> t h w c").cpu().numpy()

        yield from self._within("decode", "vae", frames())

    def preview(self, latents: Tensor) -> NDArray[np.uint8] | None:
        """The first frame of unfinished latents, or None if the DiT would have to be released to decode it."""
        return next(self.decode(latents[:, :, :1])) if self.plan.keep_dit_resident else None

    @contextmanager
    def _stage(self, name: str, *parts: Part) -> Iterator[None]:
        """Release the networks that a stage does not need, and time the stage.

        The DiT and the VAE both stay if the plan has room for both.
        """
        keep = {*parts, "dit", "vae"} if self.plan.keep_dit_resident else {*parts}
        if released := self.loaded - keep:
            for part in released:
                del self._networks[part]
            gc.collect()
        with self.clock.stage(name), within_memory(name), exact_convolutions():
            yield

    def _within(self, stage: str, part: Part, items: Iterator[Item]) -> Iterator[Item]:
        """Compute each item within a stage; the time between two items belongs to the caller."""
        end = object()
        while True:
            with self._stage(stage, part), torch.inference_mode():
                item = next(items, end)
            if item is end:
                return
            yield cast("Item", item)

    def _network(self, part: Part, build: Callable[[], Network]) -> Network:
        """A network, which is loaded now if it is not in memory."""
        if part not in self._networks:
            with self.clock.stage("load"):
                network = build()
                if self.device.type == "cpu":
                    use_cpu_kernels(network)
                elif isinstance(network, VAE):
                    use_gpu_layout(network, fused=unfit(self.device) is None)
                self._networks[part] = network
        return cast("Network", self._networks[part])

    def _umt5(self) -> UMT5:
        resident, each = self.plan.stage("umt5").resident, TEXT_EACH.get(self.precision)
        build = partial(self.checkpoint.umt5, self.dtype, self.device, resident=resident, each=each)
        return self._network("umt5", build)

    def _clip(self) -> CLIPVision:
        return self._network("clip", lambda: self.checkpoint.clip(self.dtype, self.device))

    def _dit(self) -> DiT:
        """The DiT with its LoRAs, merged into the weights if these are resident and not int8, else on the fly; or the
        one that was lent."""
        if self._lent is not None:
            return self._lent

        def build() -> DiT:
            stage, each = self.plan.stage("dit"), EACH.get(self.precision)
            dit = self.checkpoint.dit(self.dtype, self.device, resident=stage.resident, each=each)
            if self.loras:
                merge = not (stage.streamed or each or self.swappable)
                apply(dit, self.loras, merge=merge, partial=True)  # `load` checked the match
            use_attention(dit, self.attention, self.device, self.dtype)
            if self.compiled:
                prepare(dit, self.device, self.dtype)
                compile_blocks(dit)
            return dit

        return self._network("dit", build)

    def _vae(self) -> VAE:
        def build() -> VAE:
            vae = self.checkpoint.vae(getattr(torch, self.vae_precision), self.device)
            vae.chunk_frames = self.plan.chunk_frames
            return vae

        return self._network("vae", build)

    @cached_property
    def _encoder(self) -> str:
        """The name of the text encoder in the prompt cache."""
        precision = "fp8" if self.precision in TEXT_EACH else self.dtype
        return prompt_cache.fingerprint(self.checkpoint.parts["umt5"].paths, f"{precision} on {self.device.type}")


EACH: dict[str, Each] = {"int8": quantize, "fp8": BlocksInFP8()}
"""What is done with each block of the DiT, by precision; with int8 only with those that stay in memory."""

TEXT_EACH: dict[str, Each] = {"fp8": BlocksInFP8("ffn")}
"""The same for the text encoder, whose attention stays exact."""


def _texts(request: Request) -> list[str]:
    """What the text encoder reads: the prompt and, with guidance of any kind, the negative prompt."""
    guided = request.guidance != 1 or request.nag
    return [request.prompt, request.negative] if guided else [request.prompt]


def _chosen(request: Request, device: torch.device) -> tuple[str, str, bool, str]:
    """The precision, the kernel of attention, whether blocks are compiled, and the VAE's precision."""
    precision = choose_precision(request.dtype, device)
    attention = attention_for(request.attention, device, exact_dtype(precision))
    compiled = request.compile == "auto" and can_compile(device) is None
    return precision, attention, compiled, request.vae_dtype


def load(request: Request, weights: Files = None, *, swappable: bool = False) -> Pipeline:
    """Create the pipeline for a request's checkpoint, LoRAs, device and precision; networks load on first use. One that
    is `swappable` keeps LoRAs out of its weights, so that the next request may bring others (`Pipeline.swap`).

    Raises WeightsError if files are missing or do not match, RequestError if the machine does not have the device, and
    OutOfMemory if the memory is certain not to suffice.
    """
    device = choose_device(request.device)
    precision, attention, compiled, vae_precision = _chosen(request, device)
    files = checkpoint(model(request.model), weights)
    row = files.model
    adapters = read_adapters(request, row)
    names = [str(path) for path in (*adapters.paths, *files.parts["dit"].paths)]
    frames = request.seen + row.vae.stride[0] * len(request.references)
    planned = plan_for(row, request.size, frames, device, precision, sizes=files.sizes())
    if planned.refusal:
        raise OutOfMemory(f"{planned.refusal}; take a smaller size, fewer frames or a smaller model")
    notes = [*adapters.notes, *planned.warnings, *distilled.notes(dict(request), names)]
    if files.parts["dit"].widened and precision != "fp8":
        how = "; with --dtype fp8 they are not, if the GPU can" if device.type == "cuda" else ""
        notes.append(f"the weights are stored in fp8 and converted to {precision}{how}")
    if compiled is False and request.compile == "auto" and device.type == "cuda":
        notes.append(str(can_compile(device)))
    if device.type == "cuda" and (reason := unfit(device)) is not None:
        notes.append(reason)
    pipeline = Pipeline(
        row, files, device, precision, planned, attention, compiled, vae_precision, loras=adapters.loras,
        notes=notes, swappable=swappable, team=current(),
    )  # fmt: skip
    pipeline.curve(request)  # refuses what is not known, before anything loads
    return pipeline
