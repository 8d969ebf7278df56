"""Time grids, solvers, guidance and training pairs, against the official solvers and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lichtspiel import flow
from lichtspiel.spec import SolverName
from tests.golden import golden, relative_error

RUNS = ["4_5.0", "20_3.0", "50_8.0"]
OFFICIAL: list[tuple[str, SolverName]] = [
    *((f"unipc_{run}", "unipc") for run in RUNS),
    *((f"dpmpp_{run}", "dpm++") for run in RUNS),
]


def field(latents: Tensor, timestep: Tensor) -> Tensor:
    """The velocity that the golden trajectories were made with."""
    return torch.sin(1.3 * latents) + latents * timestep[:, None, None, None, None] / 1000 - 0.25


@pytest.mark.parametrize(("name", "solver"), OFFICIAL)
def test_agrees_with_the_official_solvers(name: str, solver: SolverName) -> None:
    reference = golden(name)
    steps, shift = reference.config["steps"], reference.config["shift"]
    sigmas = flow.schedule(solver, steps, shift)
    assert torch.equal(sigmas.float(), reference.outputs["sigmas"])
    assert torch.equal(flow.timesteps(solver, sigmas), reference.outputs["timesteps"])
    walked = list(flow.sample(field, reference.inputs["noise"], solver, steps, shift))
    assert [index for index, _ in walked] == list(range(steps))
    for index, latents in walked:
        assert relative_error(latents, reference.outputs["trajectory"][index]) < 1e-5


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0, 16.0])
def test_timesteps_are_the_official_integers(shift: float) -> None:
    """Truncation makes a whole step of the last bit, so the arithmetic of the two grids has to be the official one."""
    for steps in range(1, 101):
        for solver, start, stop in (("unipc", np.float32(0.999).item(), steps + 1), ("dpm++", 1.0, steps)):
            line = np.linspace(start, 0, steps + 1)[:stop]
            expected = (shift * line / (1 + (shift - 1) * line))[:steps]
            sigmas = flow.schedule(solver, steps, shift)  # type: ignore[arg-type]
            assert np.array_equal(sigmas[:-1].numpy(), expected)
            assert flow.timesteps(solver, sigmas).tolist() == (expected * 1000).astype(np.int64).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", [solver for solver in flow.SOLVERS if solver != "lcm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_straight_roads_are_walked_exactly(solver: SolverName, steps: int) -> None:
    """Where every velocity points at the same clean latents, each solver arrives there, however few its steps."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    start = float(flow.schedule(solver, steps, 5.0)[0])
    begin = (1 - start) * clean + start * noise
    *_, (_, latents) = flow.sample(lambda latents, timestep: noise - clean, begin, solver, steps, 5.0)
    torch.testing.assert_close(latents, clean, atol=1e-5, rtol=1e-5)


def gaussian(latents: Tensor, timestep: Tensor) -> Tensor:
    """Exact velocity where clean latents are normal with standard deviation 1/2."""
    sigma = timestep[0].double() / 1000
    return (latents.double() * (sigma - (1 - sigma) / 4) / ((1 - sigma) ** 2 / 4 + sigma**2)).float()


def test_higher_order_pays() -> None:
    """On the flow of a normal distribution, whose end is known, error falls from Euler to DPM++ to UniPC."""
    noise = torch.linspace(-2, 2, 9)[None]
    errors = {}
    for solver, step_type in flow.SOLVERS.items():
        if solver == "lcm":  # draws noise on the way
            continue
        sigmas = flow.schedule("euler", 40, 1.0)
        sigmas[0] = 0.999
        stepper, latents = step_type(sigmas), noise
        for index, sigma in enumerate(sigmas[:-1]):
            latents = stepper.step(index, latents, gaussian(latents, sigma[None] * 1000))
        end = noise * 0.5 / math.sqrt(0.001**2 / 4 + 0.999**2)
        errors[solver] = relative_error(latents, end)
    assert errors["unipc"] < errors["dpm++"] < errors["euler"] < 0.1


def test_lcm_predicts_and_adds_noise_again() -> None:
    """Against the loop of DMD, Self-Forcing and rCM: predict, add fresh noise up to the next time, predict."""
    noise, clean = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (7, 8))

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        return (latents - clean) / (timestep[0] / 1000) + 0.1 * latents

    times = (1000.0, 757.0, 522.0)
    drawn, latents = torch.Generator().manual_seed(3), noise
    for time, coming in zip(times, (*times[1:], 0.0), strict=True):
        predicted = latents - time / 1000 * velocity(latents, torch.tensor([time]))
        latents = predicted
        if coming:
            latents = (1 - coming / 1000) * predicted + coming / 1000 * torch.randn(2, 3, 4, generator=drawn)
    walked = flow.sample(velocity, noise, "lcm", 3, 1.0, times=times, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close([last for _, last in walked][-1], latents, rtol=1e-5, atol=1e-5)
    grid = [flow.schedule("lcm", 4, 5.0).tolist(), [1.0, 0.9375, 0.8333333333, 0.625, 0.0]]
    assert grid[0] == pytest.approx(grid[1])  # Self-Forcing's list, warped


def test_euler_goes_straight_on() -> None:
    stepper = flow.Euler(torch.tensor([1.0, 0.25, 0.0]))
    latents = stepper.step(0, torch.tensor([2.0]), torch.tensor([4.0]))
    assert latents.tolist() == [-1.0]
    assert stepper.step(1, latents, torch.tensor([4.0])).tolist() == [-2.0]


@pytest.mark.parametrize("solver", flow.SOLVERS)
def test_solvers_keep_float32(solver: SolverName) -> None:
    steps = flow.sample(lambda latents, timestep: latents.bfloat16(), torch.ones(1, 2).bfloat16(), solver, 4, 5.0)
    assert all(latents.dtype == torch.float32 and latents.isfinite().all() for _, latents in steps)


def test_the_model_is_told_one_time_per_sample() -> None:
    told = []

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        told.append(timestep)
        return latents

    list(flow.sample(velocity, torch.ones(3, 2), "euler", 3, 3.0))
    assert [time.tolist() for time in told] == [[1000.0] * 3, [pytest.approx(6000 / 7)] * 3, [pytest.approx(600.0)] * 3]


def test_guidance() -> None:
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert [float(flow.guide(conditional, unconditional, scale)) for scale in (0.0, 1.0, 5.0)] == [1.0, 3.0, 11.0]


def test_guided_velocity_is_the_same_in_one_batch_and_in_two() -> None:
    sizes: list[int] = []

    def network(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        sizes.append(len(latents))
        assert len(timestep) == len(text) == len(latents)
        return latents * text.sum(dim=(1, 2))[:, None] + timestep[:, None]

    latents, timestep = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([500.0, 500.0])
    text, negative = torch.ones(2, 3, 1), torch.ones(2, 1, 1)
    results = [
        flow.guided(network, text, negative, 2.0, batched=batched)(latents, timestep) for batched in (True, False)
    ]
    assert torch.equal(results[0], latents + 2.0 * (3 * latents - latents) + 500)
    assert torch.equal(results[0], results[1])
    assert sizes == [4, 2, 2]
    assert torch.equal(flow.guided(network, text, None, 1.0, batched=True)(latents, timestep), 3 * latents + 500)
    assert sizes[3:] == [2]


def test_training_pairs_end_at_clean_and_at_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 2, 4, 5, generator=generator) for _ in range(2))
    noisy, target = flow.training_pair(clean, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(noisy[0], clean[0])
    assert torch.equal(noisy[1], noise[1])
    torch.testing.assert_close(noisy[2], 0.75 * clean[2] + 0.25 * noise[2])
    assert torch.equal(target, noise - clean)
    # The pair is what a solver undoes: from the noisy latents, t steps back along the velocity.
    torch.testing.assert_close(noisy[2] - 0.25 * target[2], clean[2])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_training_times_follow_their_distribution(shift: float) -> None:
    """Share of times below t: nine tenths of the shifted logit-normal distribution and one of the uniform one."""
    times = flow.sample_times(100_000, shift, torch.Generator().manual_seed(0))
    assert times.dtype == torch.float32
    assert 0 < times.min() < times.max() < 1
    for t in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        unshifted = t / (shift - (shift - 1) * t)
        normal = 0.5 * (1 + math.erf(math.log(unshifted / (1 - unshifted)) / math.sqrt(2)))
        assert float((times < t).float().mean()) == pytest.approx(0.9 * normal + 0.1 * t, abs=0.006)


def test_training_times_repeat_with_their_seed() -> None:
    first, second, other = (flow.sample_times(8, 3.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_loss_is_the_mean_square_in_float32() -> None:
    value = flow.loss(torch.tensor([1.0, 3.0]).bfloat16(), torch.tensor([0.0, 1.0]))
    assert value.dtype == torch.float32
    assert float(value) == 2.5


def test_weighted_loss_counts_elements_by_their_weight() -> None:
    velocity, target = torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.zeros(2, 2)
    assert float(flow.loss(velocity, target, torch.tensor([3.0, 1.0]))) == (3 * 1 + 9 + 3 * 4 + 4) / 8
    assert flow.loss(velocity, target, torch.ones(1, 1)) == flow.loss(velocity, target)
