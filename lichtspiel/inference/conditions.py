"""What the DiT is conditioned on, and the DiT with all of it except the text; and what every stage checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lichtspiel import flow
from lichtspiel.errors import NonFinite, OutOfMemory
from lichtspiel.inference.conditioning import held
from lichtspiel.models.dit import DiT
from lichtspiel.request import Request
from lichtspiel.spec import model

__all__ = ["Conditions", "begun", "finite", "with_conditions", "within_memory"]


@dataclass(frozen=True)
class Conditions:
    """What the DiT is conditioned on.

    `text` holds the text states [1, l, w] and `negative` those of the negative prompt (None without guidance).
    `image_condition` holds the known pictures [1, 4 + c, t, h, w] (None for models that take none), `clip` the CLIP
    features [i, 257, w], and `vace` the context [1, 2c + 64, r + t, h, w], in which r references precede the video's
    latents. `start` holds the latents [1, c, t, h, w] of a video to start from.
    """

    text: Tensor
    negative: Tensor | None
    image_condition: Tensor | None
    clip: Tensor | None
    vace: Tensor | None = None
    start: Tensor | None = None

    def on(self, device: torch.device | str) -> Conditions:
        """The same conditions on a device."""
        rest = (self.negative, self.image_condition, self.clip, self.vace, self.start)
        return Conditions(self.text.to(device), *(None if each is None else each.to(device) for each in rest))


def with_conditions(dit: DiT, conditions: Conditions, request: Request) -> flow.Network:
    """The DiT with every condition except the text; given pictures are held where the model is sampled so."""
    image_channels, clip, vace = conditions.image_condition, conditions.clip, conditions.vace
    known = image_channels if model(request.model).sampling.holds_pictures else None

    def network(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        count = len(latents)  # 2 if both branches of guidance are in one batch
        inputs = (
            latents
            if image_channels is None
            else torch.cat([latents, image_channels.repeat(count, 1, 1, 1, 1).to(latents)], 1)
        )
        velocity: Tensor = dit(
            inputs, timestep, text,
            image=None if clip is None else clip.repeat(count, 1, 1),
            vace=None if vace is None else vace.repeat(count, 1, 1, 1, 1), vace_scale=request.context_scale,
        )  # fmt: skip
        return velocity if known is None else held(velocity, latents, timestep, known)

    return network


def begun(conditions: Conditions, noise: Tensor, request: Request) -> Tensor:
    """Where a run begins: at the noise [1, c, t, h, w], or at a video's latents that are partly noised."""
    if conditions.start is None:
        return noise
    sigmas = flow.schedule(request.solver, request.steps, request.shift, request.times)
    return flow.partly_noised(conditions.start, noise, float(sigmas[request.steps - request.steps_taken]))


@contextmanager
def within_memory(stage: str) -> Iterator[None]:
    """Turn the three kinds of out-of-memory errors that torch raises into OutOfMemory; let other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("out of memory", "allocate memory")
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in words):
            raise
        doing = {"encode": "encoding", "denoise": "denoising", "decode": "decoding"}[stage]
        remedy = "choose a smaller size, fewer frames or a smaller model; `lichtspiel plan` shows what fits"
        raise OutOfMemory(f"{doing} needs more memory than this machine has free; {remedy}") from error


def finite(
    stage: str, values: Tensor, remedy: str = "try --dtype float32, or check the weights with another prompt"
) -> Tensor:
    """The values; raises NonFinite with a remedy if any of them is not finite."""
    if not torch.isfinite(values).all():
        raise NonFinite(stage, remedy)
    return values
