"""Classifier-free guidance of one run: its variants, when it acts, and how many evaluations it takes.

    network(latents, timestep, text) ─Guidance→ velocity(latents, timestep)

`nag` is guidance inside the attention to the text, which needs no second branch. This module knows no solvers, files or
devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lichtspiel import flow
from lichtspiel.inference.kv_cache import outside_graphs
from lichtspiel.models.dit import (
    Context,
    CrossAttention,
    DiT,
    Pair,
    attend_text,
    embed_context,
    keys_values,
    run_blocks,
)
from lichtspiel.request import Request

__all__ = ["Guidance", "nag", "normalized", "projected", "rescaled", "skipping"]

ZERO_STEPS = 1
"""Steps at the start of a run in which CFG-Zero* leaves the latents alone (arXiv:2503.18886; the default of diffusers'
`ClassifierFreeZeroStarGuidance`)."""

MOMENTUM, LONGEST, PARALLEL = -0.75, 55.0, 0.0
"""Adaptive projected guidance (arXiv:2410.02416): the momentum of the difference between the branches, the largest norm
of that difference, and the weight of its part along the conditional velocity. The values are those that Wan2GP uses for
Wan2.1."""

SKIP_FROM, SKIP_UNTIL = 0.01, 0.2
"""The part of the steps in which skip-layer guidance acts, as in Stable Diffusion 3.5 and diffusers'
`SkipLayerGuidance`."""

NAG_LIMIT, NAG_SHARE = 2.5, 0.25
"""Normalized attention guidance (arXiv:2505.21179): the largest ratio of norms (tau), and the share of the guided
attention (alpha), as its authors use them for Wan2.1."""


@dataclass
class Guidance:
    """The guided velocity of one run, called once in each step of its solver.

    `network` maps latents [b, ...], timesteps [b] and text states [1, l, w] to a velocity; `text` and `negative` are
    the states of both prompts, `negative` None without guidance. `batched` computes both branches in one batch where it
    can (see `flow.guided`). Inside the context that `skip` makes, the network leaves out the layers of skip-layer
    guidance. `both` computes the conditional and the unconditional velocity, where that is faster than one after the
    other. `skipped` steps of the run are left out at its start. `evaluations` counts the evaluations for one sample so
    far.
    """

    network: flow.Network
    text: Tensor
    negative: Tensor | None
    request: Request
    batched: bool = False
    skip: Callable[[], AbstractContextManager[None]] = nullcontext
    both: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    skipped: int = 0
    step: int = 0
    evaluations: int = 0
    correction: Tensor | None = None
    momentum: Tensor | None = None

    @property
    def full(self) -> int:
        """The evaluations of plain guidance in all steps so far."""
        return self.step * (1 if self.negative is None else 2)

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The velocity of `latents` [b, ...] at `timestep` [b]."""
        request, step = self.request, self.step + self.skipped
        self.step += 1
        if request.guidance_kind == "cfg-zero" and step < ZERO_STEPS:
            return torch.zeros_like(latents)
        start, end = (int(part * request.steps) for part in request.interval)
        guides, skips = self.negative is not None and start <= step < end, self._skips(step)
        kept = self.correction if step >= int(request.guidance_gate * request.steps) else None
        plainly = request.guidance_kind == "cfg" and request.guidance_gate == 1
        if guides and not skips and plainly and self.both is None:
            self.evaluations += 2
            plain = flow.guided(self.network, self.text, self.negative, request.guidance, batched=self.batched)
            return plain(latents, timestep)
        conditional, unconditional = self._branches(latents, timestep, two=guides and kept is None)
        velocity = conditional
        if kept is not None and guides:
            velocity = conditional + kept
        elif unconditional is not None:
            velocity = self._guide(conditional, unconditional)
        if skips:
            self.evaluations += 1
            with self.skip():
                without = self.network(latents, timestep, self.text)
            velocity = velocity + request.skip_scale * (conditional - without)
        return velocity

    def _branches(self, latents: Tensor, timestep: Tensor, *, two: bool) -> tuple[Tensor, Tensor | None]:
        """The conditional velocity, and the unconditional one if both are wanted."""
        self.evaluations += 2 if two else 1
        if two and self.both is not None:
            return self.both(latents, timestep)
        conditional = self.network(latents, timestep, self.text)
        if not two:
            return conditional, None
        assert self.negative is not None
        return conditional, self.network(latents, timestep, self.negative)

    def _guide(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        scale, kind = self.request.guidance, self.request.guidance_kind
        if kind == "apg":
            difference = conditional - unconditional
            self.momentum = difference if self.momentum is None else difference + MOMENTUM * self.momentum
            velocity = conditional + (scale - 1) * projected(self.momentum, conditional)
        else:
            other = rescaled(unconditional, conditional) if kind == "cfg-zero" else unconditional
            velocity = flow.guide(conditional, other, scale)
        if self.request.guidance_gate < 1:
            self.correction = velocity - conditional
        return velocity

    def _skips(self, step: int) -> bool:
        steps = self.request.steps
        return bool(self.request.skip_layers) and int(SKIP_FROM * steps) < step < int(SKIP_UNTIL * steps)


def rescaled(unconditional: Tensor, conditional: Tensor) -> Tensor:
    """The unconditional velocity [b, ...], scaled to come closest to the conditional one, as CFG-Zero* does."""
    one, other = conditional.flatten(1).float(), unconditional.flatten(1).float()
    factor = (one * other).sum(1) / (other.square().sum(1) + 1e-8)
    return unconditional * factor[(...,) + (None,) * (unconditional.ndim - 1)].to(unconditional)


def projected(difference: Tensor, conditional: Tensor) -> Tensor:
    """The difference [b, ...] of two branches, of limited norm and without its part along the conditional velocity."""
    dims = tuple(range(1, difference.ndim))
    norm = torch.linalg.vector_norm(difference, dim=dims, keepdim=True)
    difference = difference * (LONGEST / norm).clamp(max=1)
    direction = F.normalize(conditional.double().flatten(1)).view_as(conditional)
    along = (difference.double() * direction).sum(dims, keepdim=True) * direction
    return (difference.double() - (1 - PARALLEL) * along).to(difference)


@contextmanager
def skipping(dit: DiT, layers: tuple[int, ...]) -> Iterator[None]:
    """Inside the block, the DiT leaves out the blocks with these numbers."""
    before = dit.blocks_fn
    dit.blocks_fn = partial(run_blocks, skipped=layers)
    try:
        yield
    finally:
        dit.blocks_fn = before


@contextmanager
def nag(dit: DiT, negative: Tensor, scale: float, *, compiled: bool = False) -> Iterator[None]:
    """Inside the block, the attention to the text steers away from the text states `negative` [1, l, w].

    A second attention per block is computed, but no second evaluation, so that a negative prompt counts at guidance 1.
    """
    layers = [module for module in dit.modules() if isinstance(module, CrossAttention)]
    pairs: dict[CrossAttention, Pair] = {}
    context: Context | None = None

    def attend(layer: CrossAttention, q: Tensor, text: Pair, positive: Context) -> Tensor:
        nonlocal context
        context = context or embed_context(dit, negative, None)  # in the first step, as part of the computation
        if layer not in pairs:
            (pairs[layer],) = keys_values(layer, context)
        toward = attend_text(layer, q, text, positive)
        return normalized(toward, attend_text(layer, q, pairs[layer], context), scale)

    for layer in layers:
        layer.attend_text_fn = outside_graphs(attend) if compiled else attend
    try:
        yield
    finally:
        for layer in layers:
            layer.attend_text_fn = attend_text


def normalized(toward: Tensor, away: Tensor, scale: float) -> Tensor:
    """Normalized attention guidance from two results of attention, [b, l, n, d] each: past `toward`, away from `away`.

    Per token, the L1 norm of the result is at most `NAG_LIMIT` times that of `toward`.
    """
    guided = scale * toward.float() - (scale - 1) * away.float()
    norm, limit = (part.float().abs().sum((-2, -1), keepdim=True) for part in (guided, toward))
    guided = guided * (NAG_LIMIT * limit / norm).clamp(max=1)
    return (NAG_SHARE * guided + (1 - NAG_SHARE) * toward.float()).type_as(toward)
