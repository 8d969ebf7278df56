"""Videos longer than what a DiT sees at once: in each step it predicts the velocity of overlapping windows, whose
overlaps are blended.

Each window has positions of its own, from 0, so the DiT never sees a longer video than it was trained on. Windows begin
elsewhere in each step, so that no border stays in its place. Memory for the blocks does not grow with the length.

Letters: b batch, c channels, t latent frames, h and w latent height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from lichtspiel import flow
from lichtspiel.inference.conditions import Conditions, with_conditions
from lichtspiel.models.attention import rotary_angles
from lichtspiel.models.dit import DiT
from lichtspiel.request import Request
from lichtspiel.spec import model

__all__ = ["Windows", "begins", "ramps", "riflex", "seen_tokens", "windowed"]

Part = Callable[[list[int]], flow.Network]
"""The network with the conditions of some latent frames, by their numbers."""


@dataclass
class Windows:
    """A network for latents of any length, for one run. A new timestep is a new step.

    `part` makes the network for a window, `length` and `overlap` are in latent frames. The first `shared` latent frames
    (VACE's references) are part of every window.
    """

    part: Part
    length: int
    overlap: int
    shared: int = 0
    step: int = -1
    time: float = math.inf

    def __call__(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """The velocity of `latents` [b, c, t, h, w]: the mean of what the windows predict, weighted by ramps."""
        count = latents.shape[2] - self.shared
        if (time := float(timestep[0])) != self.time:
            self.step, self.time = self.step + 1, time
        total: Tensor | None = None
        weights = torch.zeros(latents.shape[2], device=latents.device)
        starts = begins(count, self.length, self.overlap, self.step)
        for start, ramp in zip(starts, ramps(starts, self.length), strict=True):
            numbers = [*range(self.shared), *range(self.shared + start, self.shared + start + self.length)]
            weight = torch.cat([torch.ones(self.shared), ramp]).to(latents.device)
            velocity = self.part(numbers)(latents[:, :, numbers], timestep, text).float()
            if total is None:
                total = velocity.new_zeros(len(latents), velocity.shape[1], *latents.shape[2:])
            total[:, :, numbers] += velocity * weight[:, None, None]
            weights[numbers] += weight
        assert total is not None
        return total / weights[:, None, None]


def begins(count: int, length: int, overlap: int, step: int) -> list[int]:
    """Where windows of `length` begin that cover `count` latent frames in a step, with at least `overlap` between them.

    They are shifted by the bit-reversed number of the step, so that few steps in a row already spread over the stride.
    """
    assert 0 < overlap < length
    if count <= length:
        return [0]
    stride = length - overlap
    shift = round(stride * _reversed_bits(step))
    places = range(-shift, count - length + stride, stride)
    return sorted({min(max(place, 0), count - length) for place in places})


def _reversed_bits(number: int) -> float:
    """The binary digits of a number behind the point, in reverse: 0, 1/2, 1/4, 3/4, 1/8 and so on."""
    value, weight = 0.0, 0.5
    while number:
        value, number, weight = value + weight * (number & 1), number >> 1, weight / 2
    return value


def ramps(starts: list[int], length: int) -> list[Tensor]:
    """The weights [length] of each window: rising and falling over what it shares with the one before and after it."""
    weights = [torch.ones(length) for _ in starts]
    for number, (start, following) in enumerate(pairwise(starts)):
        shared = start + length - following
        rise = (torch.arange(shared) + 0.5) / shared
        weights[number + 1][:shared] *= rise
        weights[number][length - shared :] *= rise.flip(0)
    return weights


def windowed(dit: DiT, conditions: Conditions, request: Request) -> flow.Network:
    """The DiT with its conditions, in windows where a request is not made at once."""
    if request.seen == request.frames:
        return with_conditions(dit, conditions, request)
    stride = model(request.model).vae.stride[0]

    def part(numbers: list[int]) -> flow.Network:
        picture, context = (
            None if each is None else each[:, :, numbers] for each in (conditions.image_condition, conditions.vace)
        )
        return with_conditions(dit, replace(conditions, image_condition=picture, vace=context), request)

    return Windows(part, 1 + (request.window - 1) // stride, request.window_overlap // stride, len(request.references))


def seen_tokens(request: Request) -> int:
    """How many tokens the DiT sees at once."""
    row = model(request.model)
    return row.dit.tokens(row.latent_shape(request.seen + row.vae.stride[0] * len(request.references), request.size))


@contextmanager
def riflex(dit: DiT, on: bool) -> Iterator[None]:
    """Inside the block, the DiT places tokens so that long videos do not repeat themselves, if this is `on`."""
    if on:
        dit.angles_fn = partial(rotary_angles, riflex=True)
    try:
        yield
    finally:
        dit.angles_fn = rotary_angles
