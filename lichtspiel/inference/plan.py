"""The plan: what goes where, in which precision, and how much memory each stage takes, before anything loads.

Sizes of weights are counted from their shapes; activations follow from formulas that name every tensor
alive at the peak. Estimates warn. Only what is certain refuses: a stage whose largest block and residual stream alone
exceed the memory. Networks run one after another, so stages do not add up.
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

__all__ = ["BATCHED_TOKENS", "Plan", "Stage", "plan"]

BATCHED_TOKENS = 4096
"""Up to this many tokens both branches of guidance run as one batch; above, twice the memory buys no speed."""

MARGIN = 0.9
"""Share of free memory that is planned with; the rest is for fragments and for the rest of the machine."""

UNKNOWN_BYTES = 4_000_000_000
"""What is planned with where the free memory is not known: what a laptop of 8 GB has left."""

LARGE = 1_000_000_000
"""A text encoder of more parameters runs from its file: each block is used once, so that loading gains nothing."""

GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network's turn.

    `file_bytes` is the size of its weights on disk. In memory, `other_bytes` are the weights outside the blocks,
    `block_bytes` those of the largest resident block and `streamed_block_bytes` those of the largest streamed one,
    which is larger with int8 because only resident blocks are quantized. `activation_bytes` is the peak without
    weights, and `minimum_bytes` is less than any way of running it needs. `flops` is for one prompt or one step, and 0
    where it was not counted.
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
        """How many blocks come from the file each time they run."""
        return self.blocks - self.resident

    @property
    def peak(self) -> int:
        """Estimated bytes at the peak; a streamed block has the next one beside it."""
        return self.weights + min(self.streamed, 2) * self.streamed_block_bytes + self.activation_bytes

    @property
    def weights(self) -> int:
        """Bytes of weights that stay."""
        return self.other_bytes + self.resident * self.block_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All stages of one job on one device, with warnings, and the reason why it cannot run if that is certain.

    `chunk_frames` is how many frames the largest layers of the VAE take at once: fewer than 4 where memory is short.
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

    @property
    def peak(self) -> int:
        """The largest of all stages, in bytes."""
        return max(stage.peak for stage in self.stages)

    @property
    def keep_dit_resident(self) -> bool:
        """Whether the DiT's weights may stay while the VAE decodes, which saves loading them for the next video."""
        dit, decoding = self.stage("dit"), self.stages[-1]
        total = dit.weights + min(dit.streamed, 2) * dit.streamed_block_bytes + decoding.peak
        return self.free_bytes is not None and total <= MARGIN * self.free_bytes

    def stage(self, part: Part) -> Stage:
        """The first stage in which that network runs."""
        return next(stage for stage in self.stages if stage.part == part)

    def table(self) -> str:
        """The plan as lines of text, for people."""
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
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, f"cannot run: {self.refusal}"] if self.refusal else lines)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values; bytes are whole numbers."""
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
            "warnings": list(self.warnings), "refusal": self.refusal,
        }  # fmt: skip


def plan(
    model: Model,
    *,
    size: tuple[int, int],
    frames: int,
    device: str,
    dtype: torch.dtype,
    free_bytes: int | None,
    files_bytes: dict[Part, int] | None = None,
    rate: float | None = None,
) -> Plan:
    """Plan a job of `frames` frames of `size` (width, height) on `device` with `free_bytes` free.

    `free_bytes` is None where it is not known: the plan is then one for `UNKNOWN_BYTES`, and refuses nothing. `dtype`
    is that of text encoder and DiT; the VAE always computes in float32. With `torch.int8` the resident blocks of the
    DiT are in bytes, and everything else is float32. `files_bytes` is the size of the weights' files where it is known,
    else 16 bit per parameter are assumed (VAE: 32). `rate` is a measured speed in operations per second
    (`measure_rate`); without it there are no times.
    """
    tokens = model.dit.tokens(model.latent_shape(frames, size))
    batch = 2 if tokens <= BATCHED_TOKENS else 1
    exact = torch.float32 if dtype == torch.int8 else dtype
    wide = exact.itemsize
    budget = UNKNOWN_BYTES if free_bytes is None else free_bytes
    length, chunk_frames = model.dit.text_length, _chunk_frames(model.vae, size, budget)
    video = _video(model.vae, size, chunk_frames)
    stages = [_stage("text", "umt5", model.umt5, exact, _text(model.umt5, length, wide), 2.0 * length)]
    if model.clip is not None:
        patches = (model.clip.image_size // model.clip.patch) ** 2
        stages.append(_stage("image", "clip", model.clip, exact, 12 * patches * model.clip.width * wide, 0))
    if model.dit.in_channels > model.dit.out_channels or model.dit.vace_layers:
        stages.append(_stage("picture", "vae", model.vae, torch.float32, video, 0))
    step = _stage("denoise", "dit", model.dit, dtype, _denoise(model.dit, tokens, wide) * batch, 2.0 * tokens)
    attention = 4.0 * tokens**2 * model.dit.width * (model.dit.layers + len(model.dit.vace_layers))
    # Guidance asks twice a step. Before the first block there is the residual stream, whatever else is done.
    stages.append(
        replace(
            step, flops=2 * (step.flops + attention), minimum_bytes=step.minimum_bytes + 4 * tokens * model.dit.width
        )
    )
    stages.append(_stage("decode", "vae", model.vae, torch.float32, video, 0))
    sizes = files_bytes or {}
    stages = [_placed(replace(stage, file_bytes=sizes.get(stage.part, stage.file_bytes)), budget) for stage in stages]
    if rate:
        stages = [replace(stage, seconds=stage.flops / rate if stage.flops else None) for stage in stages]
    warnings, refusal = _judge(stages, free_bytes, device)
    if chunk_frames < model.vae.stride[0]:
        warnings = (*warnings, f"frames are decoded {chunk_frames} at a time, to need less memory")
    return Plan(
        model=model.name, size=size, frames=frames, device=device, free_bytes=free_bytes, stages=tuple(stages),
        chunk_frames=chunk_frames, warnings=warnings, refusal=refusal,
    )  # fmt: skip


BLOCK = re.compile(r"(vace_)?blocks\.\d+\.")
"""How the parameters of blocks begin that may come and go."""


def _stage(name: str, part: Part, spec: Spec, dtype: torch.dtype, activations: int, twice: float) -> Stage:
    """A stage with nothing resident yet; `twice` is two operations for every token that meets each weight of blocks."""
    counts: Counter[str] = Counter()  # parameters by block, and of everything else by ""
    for parameter, shape in shapes(spec).items():
        block_name = BLOCK.match(parameter)
        counts[block_name[0] if block_name else ""] += math.prod(shape)
    total, other = counts.total(), counts.pop("", 0)
    if isinstance(spec, UMT5Spec) and total > LARGE:
        other -= spec.vocabulary * spec.width  # its rows are read where they are
    block, in_blocks = max(counts.values(), default=0), counts.total()
    wide = 4 if dtype == torch.int8 else dtype.itemsize
    return Stage(
        name=name, part=part, dtype=str(dtype).removeprefix("torch."), parameters=total,
        file_bytes=total * (4 if part == "vae" else 2), blocks=len(counts), resident=0, other_bytes=other * wide,
        block_bytes=block * dtype.itemsize, streamed_block_bytes=block * wide, activation_bytes=activations,
        minimum_bytes=other * wide + block * dtype.itemsize, flops=twice * in_blocks,
    )  # fmt: skip


def _placed(stage: Stage, budget: int) -> Stage:
    """As many blocks resident as fit, with two streamed ones beside them if not all do."""
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

    In self-attention (`SelfAttention.forward`): the residual stream in float32, its normed copy, v, q, k before and
    after norm and rotation in float32. In the feed-forward network: stream, copy, its result in pieces and whole, and
    the hidden layer of one piece before and after GELU. VACE holds a second stream.
    """
    attention = tokens * spec.width * (4 + 4 * wide + 8)
    feed = tokens * spec.width * (4 + 3 * wide) + 2 * min(tokens, FeedForward.chunk_tokens) * spec.ffn_width * wide
    vace = tokens * 8 * spec.width if spec.vace_layers else 0
    return max(attention, feed) + vace


def _text(spec: UMT5Spec, length: int, wide: int) -> int:
    """Bytes alive at the peak of a block of the text encoder: stream and copy beside three hidden layers, or beside q,
    k, v and the logits in the computing precision and in float32 twice."""
    feed = length * (2 * spec.width + 3 * spec.ffn_width) * wide
    attention = length * (2 * spec.width + 3 * spec.attention_width) * wide + spec.heads * length**2 * (wide + 8)
    return max(feed, attention)


def _chunk_frames(spec: VAESpec, size: tuple[int, int], budget: int) -> int:
    """Frames that the VAE's largest layers take at once: four, as the official code does, if they fit, else one."""
    weights = 4 * sum(math.prod(shape) for shape in shapes(spec).values())
    fit = weights + _video(spec, size, spec.stride[0]) <= MARGIN * budget
    return spec.stride[0] if fit else 1


def _video(spec: VAESpec, size: tuple[int, int], chunk_frames: int) -> int:
    """Bytes alive at the peak of the decoder (the encoder has less): what its layers remember, the four frames before
    the last doubling of height and width, and at full size either input, normed input and result of a layer, or around
    the last layer, which is not split, its normed input, alone and joined to two remembered frames.

    Every 3x3x3 layer remembers two frames of its input (`CausalConv3d`); stages run from the lowest resolution up.
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
