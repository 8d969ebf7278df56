"""Flow matching: solvers that turn noise into latents, and training pairs of noisy latents and velocity.

A sample at time t is (1 - t)·clean + t·noise, its velocity noise - clean; t = sigma runs from 1 (noise) to 0 (clean),
and a model gets 1000·t. This module knows no models, prompts, tasks or files: solvers see only velocities, and the
caller draws the noise. Solvers compute scalars in float64 and latents in float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lichtspiel.spec import SolverName

__all__ = [
    "DPM",
    "LCM",
    "SOLVERS",
    "Euler",
    "Solver",
    "UniPC",
    "guide",
    "guided",
    "loss",
    "partly_noised",
    "sample",
    "sample_times",
    "schedule",
    "shifted",
    "timesteps",
    "training_pair",
]

TIMESTEPS = 1000
"""The timestep that a model gets at sigma 1 (`num_train_timesteps` in `wan/configs/shared_config.py`)."""

UNIFORM_SHARE = 0.1
"""The share of training times drawn uniformly, so that both ends of the schedule are trained."""

CLOSEST = 1e-5
"""Training times keep this distance from 0 and 1."""


def shifted(times: Tensor, shift: float) -> Tensor:
    """Shift `times` in 0..1 toward noise, s·t / (1 + (s - 1)·t), as larger frames need it (arXiv 2403.03206)."""
    return shift * times / (1 + (shift - 1) * times)


def schedule(solver: SolverName, steps: int, shift: float, times: Sequence[float] = ()) -> Tensor:
    """The decreasing sigmas of a run, [steps + 1] in float64: one for each evaluation of the velocity, then 0.

    All solvers divide the interval from `first_sigma` to 0 into `steps` equal parts, and then shift the points. A list
    of `times`, falling from at most 1000 and as long as there are steps, is taken as it is.
    """
    if times:
        assert len(times) == steps
        return torch.tensor([*times, 0.0], dtype=torch.float64) / TIMESTEPS
    start = SOLVERS[solver].first_sigma
    line = start + torch.arange(steps + 1, dtype=torch.float64) * (-start / steps)
    line[-1] = 0.0
    return shifted(line, shift)


def timesteps(solver: SolverName, sigmas: Tensor) -> Tensor:
    """The timesteps that a model gets at every sigma but the last, [steps] in float32, in 0..1000.

    The two official solvers truncate them to whole numbers, and the published models are sampled that way.
    """
    times = sigmas[:-1].double() * TIMESTEPS
    return (times.trunc() if SOLVERS[solver].whole_timesteps else times).float()


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): from the unconditional velocity past the conditional one."""
    return unconditional + scale * (conditional - unconditional)


Velocity = Callable[[Tensor, Tensor], Tensor]
"""The velocity of latents [b, ...] at timesteps [b] in 0..1000."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The velocity of latents [b, ...] at timesteps [b], given text states [b, l, w]."""


def guided(network: Network, text: Tensor, negative: Tensor | None, scale: float, *, batched: bool) -> Velocity:
    """The guided velocity for `sample`, from text states [b, l, w] and those of the negative prompt.

    Without negative states, there is only one branch. `batched` computes both branches in one batch of 2b, the
    conditional one first, and pads the shorter text with zeros. That is faster if a batch of b does not keep the device
    busy.
    """
    if negative is None:
        return lambda latents, timestep: network(latents, timestep, text)
    if not batched:
        return lambda latents, timestep: guide(
            network(latents, timestep, text), network(latents, timestep, negative), scale
        )
    length = max(text.shape[1], negative.shape[1])
    both = torch.cat([F.pad(states, (0, 0, 0, length - states.shape[1])) for states in (text, negative)])

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        doubled = latents.repeat(2, *[1] * (latents.ndim - 1))
        conditional, unconditional = network(doubled, timestep.repeat(2), both).chunk(2)
        return guide(conditional, unconditional, scale)

    return velocity


class Solver(ABC):
    """One run along a schedule, from the first index to the last. A multistep solver keeps results of earlier steps.

    `first_sigma` is where a run starts before the shift, and `whole_timesteps` says whether timesteps are truncated to
    whole numbers.
    """

    first_sigma: ClassVar[float] = 1.0
    whole_timesteps: ClassVar[bool] = True

    def __init__(self, sigmas: Tensor) -> None:
        self.sigmas: list[float] = sigmas.tolist()

    @abstractmethod
    def step(self, index: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """From the latents at `sigmas[index]` and their velocity to the latents at `sigmas[index + 1]`, in float32."""


class Euler(Solver):
    """The Euler method, which is exact if the flow is straight. The official code does not have it."""

    whole_timesteps = False

    def step(self, index: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """See `Solver`."""
        return latents.float() + (self.sigmas[index + 1] - self.sigmas[index]) * velocity.float()


class LCM(Solver):
    """Predict the clean latents, and add fresh noise up to the next sigma: x' = (1 - s')·clean + s'·noise.

    Models that were distilled to few steps are sampled so: consistency models on the ordinary grid (arXiv:2310.04378,
    section 3), DMD, Self-Forcing and rCM at times of their own. `generator` draws the noise on the CPU, so that a seed
    gives the same noise on every device.
    """

    whole_timesteps = False
    generator: torch.Generator | None = None

    def step(self, index: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """See `Solver`."""
        clean = latents.float() - self.sigmas[index] * velocity.float()
        coming = self.sigmas[index + 1]
        if coming == 0:
            return clean
        noise = torch.randn(clean.shape, generator=self.generator).to(clean)
        return (1 - coming) * clean + coming * noise


class DPM(Solver):
    """DPM-Solver++ of second order, midpoint (arXiv 2211.01095); first order in the first and in the last step.

    Works on the clean latents that a velocity predicts, in terms of the log signal-to-noise ratio
    λ = log((1 - σ) / σ), which is -∞ at sigma 1 and +∞ at 0; the formulas below are valid in these limits.
    """

    def __init__(self, sigmas: Tensor) -> None:
        # The official solvers round sigma to float32 before they take 1 - sigma, which matters close to sigma 1.
        rounded = sigmas.float().double()
        super().__init__(rounded)
        self.lambdas: list[float] = (torch.log(1 - rounded) - torch.log(rounded)).tolist()
        self.cleans: list[Tensor] = []

    def step(self, index: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """See `Solver`."""
        latents = latents.float()
        self.remember(latents - self.sigmas[index] * velocity.float())
        return self.predict(index, latents)

    def remember(self, clean: Tensor) -> None:
        """Keep the two newest predictions of the clean latents."""
        self.cleans = [*self.cleans[-1:], clean]

    def first_order(self, start: int, latents: Tensor, clean: Tensor) -> tuple[Tensor, float]:
        """One step from `start` as if `clean` were exact; also returns the weight of any correction to `clean`."""
        sigma, next_sigma = self.sigmas[start], self.sigmas[start + 1]
        weight = -(1 - next_sigma) * math.expm1(self.lambdas[start] - self.lambdas[start + 1])
        return next_sigma / sigma * latents + weight * clean, weight

    def slope(self, start: int, clean: Tensor, before: Tensor) -> tuple[Tensor, float]:
        """Extrapolate the change of the clean latents to the step from `start`; also returns the ratio of the steps."""
        step = self.lambdas[start + 1] - self.lambdas[start]
        ratio = (self.lambdas[start - 1] - self.lambdas[start]) / step
        return (before - clean) / ratio, ratio

    def predict(self, index: int, latents: Tensor) -> Tensor:
        """The latents at `index + 1`, from those at `index` and the predictions."""
        clean = self.cleans[-1]
        result, weight = self.first_order(index, latents, clean)
        last = index == len(self.sigmas) - 2
        if len(self.cleans) == 1 or last:
            return result
        return result + 0.5 * weight * self.slope(index, clean, self.cleans[0])[0]


class UniPC(DPM):
    """UniPC of second order, with B(h) = e^h - 1 (arXiv 2302.04867): it predicts like DPM-Solver++, and uses every
    velocity a second time, to correct the step that led to it before taking the next one.

    It starts at 0.999 in float32 (`set_timesteps` in `wan/utils/fm_solvers_unipc.py`); DPM-Solver++ starts at 1
    (`get_sampling_sigmas` in `wan/utils/fm_solvers.py`).
    """

    first_sigma = float(torch.tensor(0.999))

    def __init__(self, sigmas: Tensor) -> None:
        super().__init__(sigmas)
        self.start: Tensor | None = None

    def step(self, index: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """See `Solver`."""
        latents = latents.float()
        clean = latents - self.sigmas[index] * velocity.float()
        if self.start is not None:
            latents = self.correct(index, self.start, clean)
        self.remember(clean)
        self.start = latents
        return self.predict(index, latents)

    def correct(self, index: int, start: Tensor, arrived: Tensor) -> Tensor:
        """Recompute the latents at `index` from those at `index - 1` and `arrived`, the prediction made at `index`."""
        clean = self.cleans[-1]
        result, weight = self.first_order(index - 1, start, clean)
        if len(self.cleans) == 1:
            return result + 0.5 * weight * (arrived - clean)
        slope, ratio = self.slope(index - 1, clean, self.cleans[0])
        # ρ solves [[1, 1], [ratio, 1]] ρ = b, the paper's condition for second order; h is negative for clean latents.
        h = self.lambdas[index - 1] - self.lambdas[index]
        phi = math.expm1(h) / h - 1
        b1, b2 = phi / math.expm1(h), 2 * (phi / h - 0.5) / math.expm1(h)
        rho = (b1 - b2) / (1 - ratio)
        return result + weight * (rho * slope + (b1 - rho) * (arrived - clean))


SOLVERS: dict[SolverName, type[Solver]] = {"unipc": UniPC, "dpm++": DPM, "euler": Euler, "lcm": LCM}
"""All solvers, by the names that requests use."""


def sample(
    velocity: Velocity, noise: Tensor, solver: SolverName, steps: int, shift: float, *,
    times: Sequence[float] = (), generator: torch.Generator | None = None, skipped: int = 0,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """Go from `noise` [b, ...] to clean latents, yielding the index of each step and the latents after it.

    `velocity` gets the latents, and timesteps [b] in float32 in 0..1000, which stay on the CPU. `times` replace the
    shifted grid, as in `schedule`. `generator` draws what a solver adds on the way. With `skipped` steps, `noise` is a
    sample at the sigma after them (see `partly_noised`).
    """
    sigmas = schedule(solver, steps, shift, times)[skipped:]
    run = SOLVERS[solver](sigmas)
    if isinstance(run, LCM):
        run.generator = generator
    latents = noise.float()
    for index, timestep in enumerate(timesteps(solver, sigmas)):
        latents = run.step(index, latents, velocity(latents, timestep.expand(len(latents))))
        yield index, latents


def partly_noised(clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """A sample at `sigma`, from which a run starts that changes clean latents only in part (arXiv:2108.01073)."""
    return (1 - sigma) * clean.float() + sigma * noise.float()


def sample_times(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Draw training times in (0, 1), [count] in float32 on the CPU.

    Each is the sigmoid of a normal variable (arXiv 2403.03206), shifted toward noise; a tenth are uniform instead.
    """
    times = shifted(torch.randn(count, generator=generator).sigmoid(), shift)
    uniform = torch.rand(count, generator=generator)
    chosen = torch.rand(count, generator=generator) < UNIFORM_SHARE
    return torch.where(chosen, uniform, times).clamp(CLOSEST, 1 - CLOSEST)


def training_pair(clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents at `times` [b] between `clean` and `noise` [b, ...], and the velocity to learn."""
    t = times.to(clean)[(...,) + (None,) * (clean.ndim - 1)]
    return (1 - t) * clean + t * noise, noise - clean


def loss(velocity: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean squared error in float32; `weight`, which is broadcast, weights the elements."""
    if weight is None:
        return F.mse_loss(velocity.float(), target.float())
    weight = weight.float().expand_as(target)
    return (weight * (velocity.float() - target.float()).square()).sum() / weight.sum()
