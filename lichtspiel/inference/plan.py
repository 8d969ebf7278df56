"""The plan: where each network runs, in which precision and with how much memory, worked out before anything loads.

The sizes of weights are counted from their shapes; activations follow from formulas that name every tensor alive at the
peak. Estimates only lead to warnings. A job is refused only if it is certain to fail: if the largest block and the
residual stream of a stage alone exceed the memory. Networks run one after another, so their memory does not add up.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from lichtspiel.models import Spec, shapes
from lichtspiel.models.dit import FeedForward
from lichtspiel.spec import DiTSpec, Model, Part, UMT5Spec, VAESpec

__all__ = ["BATCHED_TOKENS", "DECODING", "Plan", "Stage", "plan"]

BATCHED_TOKENS = 4096
"""Up to this many tokens, both branches of guidance run as one batch; above, doubling the memory gains no speed."""

MARGIN = 0.9
"""The share of free memory to plan with; the rest is left for fragmentation and for other programs."""

UNKNOWN_BYTES = 4_000_000_000
"""What to plan with if the free memory is not known: about what is free on a laptop with 8 GB."""

LARGE = 1_000_000_000
"""A text encoder with more parameters is streamed from its file, because each block is used only once."""

GIGABYTE = 1e9

WIDENED = {torch.int8: torch.float32, torch.float8_e4m3fn: torch.bfloat16}
"""The precision of everything outside blocks in eight bits; with int8 also that of streamed blocks."""

DECODING = 500.0
"""Operations for a pixel that the VAE decodes, divided by the square of its base width; counted from its layers.
Encoding a pixel takes about half of them, and VACE encodes two videos."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run of one network.

    `file_bytes` is the size of the weights on disk. In memory, `other_bytes` is the size of the weights outside the
    blocks, `block_bytes` that of the largest block when resident, and `streamed_block_bytes` that of the largest block
    when streamed, which is larger with int8, because only resident blocks are then quantized. `activation_bytes` is the
    peak without weights, and `minimum_bytes` a lower bound for any way to run it. `flops` counts one prompt or one
    step, and is 0 if not counted.
    """

    name: str
    part: Part
    dtype: str
    parameters: int
    file_bytes: int
    blocks: int
    resident: int
    other_bytes: int
    block_bytes: int
    streamed_block_bytes: int
    activation_bytes: int
    minimum_bytes: int
    flops: float
    seconds: float | None = None

    @property
    def streamed(self) -> int:
        """How many blocks are read from the file each time they run."""
        return self.blocks - self.resident

    @property
    def peak(self) -> int:
        """Estimated bytes at the peak; while a streamed block runs, the next one is already being loaded."""
        return self.weights + min(self.streamed, 2) * self.streamed_block_bytes + self.activation_bytes

    @property
    def weights(self) -> int:
        """Bytes of weights that stay in memory."""
        return self.other_bytes + self.resident * self.block_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All stages of one job on one device, with warnings. `refusal` is the reason if the job certainly cannot run.

    `chunk_frames` is how many frames the largest layers of the VAE process at once: fewer than 4 if memory is short.
    """

    model: str
    size: tuple[int, int]
    frames: int
    device: str
    free_bytes: int | None
    stages: tuple[Stage, ...]
    chunk_frames: int
    warnings: tuple[str, ...]
    refusal: str | None
    steps: int = 0
    guided: bool = True

    @property
    def seconds(self) -> float | None:
        """How long the whole job takes, without loading; None if the time of a stage is not known."""
        total = 0.0
        for stage in self.stages:
            if stage.seconds is None:
                return None
            total += stage.seconds * (self.steps / (1 if self.guided else 2) if stage.part == "dit" else 1)
        return total

    @property
    def peak(self) -> int:
        """The largest peak of all stages, in bytes."""
        return max(stage.peak for stage in self.stages)

    @property
    def keep_dit_resident(self) -> bool:
        """Whether the DiT can stay in memory while the VAE decodes, so that the next video need not reload it."""
        dit, decoding = self.stage("dit"), self.stages[-1]
        total = dit.weights + min(dit.streamed, 2) * dit.streamed_block_bytes + decoding.peak
        return self.free_bytes is not None and total <= MARGIN * self.free_bytes

    def stage(self, part: Part) -> Stage:
        """The first stage in which this network runs."""
        return next(stage for stage in self.stages if stage.part == part)

    def table(self) -> str:
        """The plan as a table for people to read."""
        rows = [("stage", "network", "precision", "file GB", "blocks", "streamed", "peak GB", "time")]
        for stage in self.stages:
            unit = " a step" if stage.part == "dit" else ""
            spent = f"{stage.seconds:.1f} s{unit}" if stage.seconds is not None else "not known"
            rows.append((
                stage.name, stage.part, stage.dtype, f"{stage.file_bytes / GIGABYTE:.2f}", str(stage.blocks),
                str(stage.streamed), f"{stage.peak / GIGABYTE:.2f}", spent,
            ))  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        width, height = self.size
        head = f"{self.model}, {width}x{height}, {self.frames} frames, on {self.device}"
        free = "free memory not known" if self.free_bytes is None else f"{self.free_bytes / GIGABYTE:.1f} GB free"
        lines.insert(0, f"{head}: {self.peak / GIGABYTE:.1f} GB needed, {free}")
        if self.steps and self.seconds is not None:
            lines.append(f"in all: about {duration(self.seconds)} for {self.steps} steps, without loading")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, f"cannot run: {self.refusal}"] if self.refusal else lines)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; bytes are integers."""
        stages = [
            {
                "name": stage.name, "part": stage.part, "dtype": stage.dtype, "parameters": stage.parameters,
                "file_bytes": stage.file_bytes, "blocks": stage.blocks, "resident_blocks": stage.resident,
                "streamed_blocks": stage.streamed, "activation_bytes": stage.activation_bytes, "peak_bytes": stage.peak,
                "seconds": stage.seconds,
            }
            for stage in self.stages
        ]  # fmt: skip
        return {
            "model": self.model, "size": list(self.size), "frames": self.frames, "device": self.device,
            "free_bytes": self.free_bytes, "peak_bytes": self.peak, "stages": stages, "vae_frames": self.chunk_frames,
            "steps": self.steps, "seconds": self.seconds, "warnings": list(self.warnings), "refusal": self.refusal,
        }  # fmt: skip


def duration(seconds: float) -> str:
    """A time in words, such as "2 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def plan(
    model: Model,
    *,
    size: tuple[int, int],
    frames: int,
    device: str,
    dtype: torch.dtype,
    free_bytes: int | None,
    files_bytes: dict[Part, int] | None = None,
    rates: tuple[float, float] | None = None,
) -> Plan:
    """Plan a job of `frames` frames of `size` (width, height) on `device` with `free_bytes` free.

    If `free_bytes` is None (not known), the plan assumes `UNKNOWN_BYTES` and refuses nothing. `dtype` is the precision
    of the text encoder and the DiT; the VAE computes in float32. With `torch.int8` or `torch.float8_e4m3fn`, only
    blocks of the DiT are in it, with int8 those that are resident; everything else is float32 or bfloat16.
    `files_bytes` holds the sizes of the weight files if they are known; otherwise 16 bits per parameter are assumed
    (VAE: 32). `rates` are speeds in operations per second (`measure_rate`), in the precision of everything that is not
    quantized and in float32; without, the plan has no times.
    """
    tokens = model.dit.tokens(model.latent_shape(frames, size))
    batch = 2 if tokens <= BATCHED_TOKENS else 1
    exact = WIDENED.get(dtype, dtype)
    wide = exact.itemsize
    budget = UNKNOWN_BYTES if free_bytes is None else free_bytes
    length, chunk_frames = model.dit.text_length, _chunk_frames(model.vae, size, budget)
    video = _video(model.vae, size, chunk_frames)
    decoding = DECODING * model.vae.width**2 * size[0] * size[1] * frames
    stages = [_stage("text", "umt5", model.umt5, exact, _text(model.umt5, length, wide), 2.0 * length)]
    if model.clip is not None:
        patches = (model.clip.image_size // model.clip.patch) ** 2
        stages.append(_stage("image", "clip", model.clip, exact, 12 * patches * model.clip.width * wide, 0))
    if model.dit.in_channels > model.dit.out_channels or model.dit.vace_layers:
        encoding = decoding / 2 * (2 if model.dit.vace_layers else 1)
        stages.append(replace(_stage("picture", "vae", model.vae, torch.float32, video, 0), flops=encoding))
    step = _stage("denoise", "dit", model.dit, dtype, _denoise(model.dit, tokens, wide) * batch, 2.0 * tokens)
    attention = 4.0 * tokens**2 * model.dit.width * (model.dit.layers + len(model.dit.vace_layers))
    # Products in e4m3 count half: makers' peaks are twice those in bfloat16. Guidance runs the DiT twice per step. In
    # any case, the residual stream exists before the first block.
    products = step.flops / (2 if dtype == torch.float8_e4m3fn else 1)
    stages.append(
        replace(step, flops=2 * (products + attention), minimum_bytes=step.minimum_bytes + 4 * tokens * model.dit.width)
    )
    stages.append(replace(_stage("decode", "vae", model.vae, torch.float32, video, 0), flops=decoding))
    sizes = files_bytes or {}
    stages = [_placed(replace(stage, file_bytes=sizes.get(stage.part, stage.file_bytes)), budget) for stage in stages]
    if rates:
        by_part = {stage.part: rates[1] if stage.part == "vae" else rates[0] for stage in stages}
        stages = [
            replace(stage, seconds=stage.flops / by_part[stage.part] if stage.flops else None) for stage in stages
        ]
    warnings, refusal = _judge(stages, free_bytes, device)
    if chunk_frames < model.vae.stride[0]:
        warnings = (*warnings, f"frames are decoded {chunk_frames} at a time, to need less memory")
    return Plan(
        model=model.name, size=size, frames=frames, device=device, free_bytes=free_bytes, stages=tuple(stages),
        chunk_frames=chunk_frames, warnings=warnings, refusal=refusal,
    )  # fmt: skip


BLOCK = re.compile(r"(vace_)?blocks\.\d+\.")
"""The beginning of the names of parameters in blocks, which can be streamed."""


def _stage(name: str, part: Part, spec: Spec, dtype: torch.dtype, activations: int, twice: float) -> Stage:
    """A stage with no resident blocks yet; `twice` is twice the number of tokens that pass through each block."""
    counts: Counter[str] = Counter()  # parameters per block; "" stands for everything else
    for parameter, shape in shapes(spec).items():
        block_name = BLOCK.match(parameter)
        counts[block_name[0] if block_name else ""] += math.prod(shape)
    total, other = counts.total(), counts.pop("", 0)
    if isinstance(spec, UMT5Spec) and total > LARGE:
        other -= spec.vocabulary * spec.width  # rows of the embedding are read from the file
    block, in_blocks = max(counts.values(), default=0), counts.total()
    wide = WIDENED.get(dtype, dtype).itemsize
    streamed = wide if dtype == torch.int8 else dtype.itemsize
    return Stage(
        name=name, part=part, dtype=str(dtype).removeprefix("torch."), parameters=total,
        file_bytes=total * (4 if part == "vae" else 2), blocks=len(counts), resident=0, other_bytes=other * wide,
        block_bytes=block * dtype.itemsize, streamed_block_bytes=block * streamed, activation_bytes=activations,
        minimum_bytes=other * wide + block * dtype.itemsize, flops=twice * in_blocks,
    )  # fmt: skip


def _placed(stage: Stage, budget: int) -> Stage:
    """Make as many blocks resident as fit. If not all do, leave room for two streamed ones."""
    if not stage.block_bytes or (stage.part == "umt5" and stage.parameters > LARGE):
        return stage
    room = int(MARGIN * budget) - stage.other_bytes - stage.activation_bytes
    if stage.blocks * stage.block_bytes <= room:
        return replace(stage, resident=stage.blocks)
    return replace(
        stage, resident=min(max((room - 2 * stage.streamed_block_bytes) // stage.block_bytes, 0), stage.blocks)
    )


def _judge(stages: list[Stage], free_bytes: int | None, device: str) -> tuple[tuple[str, ...], str | None]:
    warnings: list[str] = []
    if free_bytes is None:
        return (f"the free memory of {device} is not known; planned for {UNKNOWN_BYTES / GIGABYTE:.0f} GB",), None
    for stage in stages:
        if stage.minimum_bytes > free_bytes:
            need = f"{stage.name} needs {stage.minimum_bytes / GIGABYTE:.1f} GB for one block and its input alone"
            return tuple(warnings), f"{need}, and {device} has {free_bytes / GIGABYTE:.1f} GB free"
        if stage.peak > free_bytes:
            warnings.append(
                f"{stage.name} may need {stage.peak / GIGABYTE:.1f} GB, and {free_bytes / GIGABYTE:.1f} GB are free; "
                "if it fails, take a smaller --size, fewer --frames or a smaller --model"
            )
        if stage.streamed and stage.part == "dit":
            warnings.append(f"{stage.streamed} of {stage.blocks} blocks are read from their file in every step")
    return tuple(warnings), None


def _denoise(spec: DiTSpec, tokens: int, wide: int) -> int:
    """Bytes alive at the peak of a block of the DiT, for one video.

    In self-attention (`SelfAttention.forward`): the residual stream in float32, its normalized copy, v, and q and k
    before and after norm and rotation in float32. In the feed-forward network: the stream, its copy, the result in
    chunks and whole, and the hidden layer of one chunk before and after GELU. VACE keeps a second stream.
    """
    attention = tokens * spec.width * (4 + 4 * wide + 8)
    feed = tokens * spec.width * (4 + 3 * wide) + 2 * min(tokens, FeedForward.chunk_tokens) * spec.ffn_width * wide
    vace = tokens * 8 * spec.width if spec.vace_layers else 0
    return max(attention, feed) + vace


def _text(spec: UMT5Spec, length: int, wide: int) -> int:
    """Bytes alive at the peak of a block of the text encoder.

    The residual stream and its copy, plus either three hidden layers, or q, k, v and the logits, once in the computing
    precision and twice in float32.
    """
    feed = length * (2 * spec.width + 3 * spec.ffn_width) * wide
    attention = length * (2 * spec.width + 3 * spec.attention_width) * wide + spec.heads * length**2 * (wide + 8)
    return max(feed, attention)


def _chunk_frames(spec: VAESpec, size: tuple[int, int], budget: int) -> int:
    """How many frames the VAE's largest layers process at once: four if they fit, as in the official code, else one."""
    weights = 4 * sum(math.prod(shape) for shape in shapes(spec).values())
    fit = weights + _video(spec, size, spec.stride[0]) <= MARGIN * budget
    return spec.stride[0] if fit else 1


def _video(spec: VAESpec, size: tuple[int, int], chunk_frames: int) -> int:
    """Bytes alive at the peak of the decoder; the encoder needs less.

    They are the frames that its layers cache, the four frames before height and width double for the last time, and at
    full size either the input, normalized input and result of one layer, or, for the last layer, which is not split,
    its normalized input, alone and joined to two cached frames. Every 3x3x3 layer caches two frames of its input
    (`CausalConv3d`); stages run from the lowest resolution up.
    """
    width, height = size
    widths = [spec.width * multiplier for multiplier in (spec.multipliers[-1], *reversed(spec.multipliers))]
    remembered = 0
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        scale = 2 ** (len(spec.multipliers) - 1 - stage)
        cells = (width // scale) * (height // scale)
        layers = 2 * (spec.residual_blocks + 1) + (4 if stage == 0 else 0)  # the middle has two blocks of two
        remembered += 2 * layers * max(inputs // (2 if stage else 1), outputs) * cells * 4
    frame = spec.width * max(1, spec.multipliers[0]) * width * height * 4
    before = spec.stride[0] * widths[-3] // 2 * (width // 2) * (height // 2) * 4
    return remembered + 2 * frame + before + max(3 * chunk_frames, 2 * chunk_frames + 2) * frame
