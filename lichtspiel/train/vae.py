"""Training a video VAE from scratch on rendered clips: reconstruction, a little KL, PSNR on clips it never saw.

The whole clip runs through the network at once; that this equals the streamed graph of generation is tested with the
network. Crops are drawn around the actors, because backdrops are easy and subjects are what a person looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.inference.pixels import normalize, to_bytes
from lichtspiel.models.vae import VAE
from lichtspiel.spec import VAESpec
from lichtspiel.train.nano.clips import ClipStore
from lichtspiel.train.optim import split
from lichtspiel.train.state import Budget, Run, Weights

SUBJECT_WEIGHT = 3.0
"""How much more an actor's pixels count than the backdrop's."""

KL_WEIGHT = 1e-4


@dataclass(frozen=True, kw_only=True)
class VAEPlan:
    """How one VAE run goes: crops of `crop` pixels, `batch` of them a step.

    Each step draws one of the lengths in `frames`: short clips give more steps, but a network that saw nothing else
    drifts later on. From `decay_from` of the budget on, while the rate falls to zero, all have the last of them.
    `start` may hold weights of the module "vae" to begin from.
    """

    budget: Budget
    crop: int
    frames: tuple[int, ...]
    batch: int
    rates: tuple[float, float]
    decay_from: float
    device: str
    seed: int
    start: Weights = field(default_factory=dict)


def train_vae(
    plan: VAEPlan,
    spec: VAESpec,
    store: ClipStore,
    held_out: ClipStore,
    folder: Path,
    *,
    report: Callable[[dict[str, float]], None] = print,
) -> VAE:
    """Train until the budget is spent, resuming from `folder` if it holds a checkpoint; returns the averaged VAE."""
    time, side, _ = spec.stride
    if plan.crop % side or any(frames % time != 1 for frames in plan.frames):
        raise InvalidInput(f"a VAE trains on crops of a multiple of {side} pixels and {time}n+1 frames")
    torch.manual_seed(plan.seed)
    vae = layout(blank_vae(spec)).to(plan.device)
    run = Run({"vae": vae}, split({"vae": vae}, plan.rates), plan.budget, folder, plan.seed)
    if not run.resume():
        run.start_from(plan.start)
    for step in run.steps():
        generator = run.generator()
        early = run.progress < plan.decay_from
        frames = plan.frames[int(torch.randint(len(plan.frames), (), generator=generator)) if early else -1]
        video, weight = crops(store, plan, frames, generator)
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device == "cuda"):
            loss = vae_loss(vae, video, weight, run.generator(1))
        run.update(loss, decay_from=plan.decay_from)
        if step % 50 == 0:
            seconds = run.seconds / max(step, 1)
            scores = measure(run.averages["vae"], held_out, plan.device) if step % 400 == 0 else {}
            now = {"step": step, "progress": run.progress, "loss": float(loss.detach()), "seconds/step": seconds}
            report(now | scores)
    averaged = run.averages["vae"]
    assert isinstance(averaged, VAE)
    report({"step": run.step, "progress": 1.0, **measure(averaged, held_out, plan.device)})
    return averaged


def blank_vae(spec: VAESpec) -> VAE:
    """A VAE whose latents are not normalised yet."""
    vae = VAE(replace(spec, latent_mean=None, latent_std=None))
    use_cpu_kernels(vae)  # only without gradients, when clips are encoded and measured
    return vae


def layout(vae: VAE) -> VAE:
    """Put convolution weights in channels-last order, which processors and tensor cores read fastest."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return vae


def crops(store: ClipStore, plan: VAEPlan, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of crops [b, 3, t, s, s] in [-1, 1] around actors, and the weight of every pixel [b, 1, t, s, s]."""

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator)) if limit > 0 else 0

    videos, masks = [], []
    height, width = store.frames.shape[2:4]
    for _ in range(plan.batch):
        clip, begin = draw(len(store)), draw(store.frames.shape[1] - frames + 1)
        mask = np.asarray(store.masks[clip, begin : begin + frames])
        rows, columns = np.nonzero(mask[frames // 2])
        spread = plan.crop // 2
        row, column = draw(height), draw(width)
        if len(rows) and draw(5):  # four of five crops look at the actor
            row = int(rows.mean()) + draw(spread) - spread // 2
            column = int(columns.mean()) + draw(spread) - spread // 2
        top = min(max(row - plan.crop // 2, 0), height - plan.crop)
        left = min(max(column - plan.crop // 2, 0), width - plan.crop)
        window = (slice(top, top + plan.crop), slice(left, left + plan.crop))
        videos.append(np.asarray(store.frames[clip, begin : begin + frames])[:, *window])
        masks.append(mask[:, *window] > 0)
    return pixels(np.stack(videos), plan.device), weights(np.stack(masks), plan.device)


def pixels(frames: np.ndarray, device: str) -> Tensor:
    """uint8 [b, t, h, w, 3] to float [b, 3, t, h, w] in [-1, 1]."""
    video = normalize(torch.from_numpy(frames).to(device))
    return rearrange(video, "b t h w c -> b c t h w")


def frames_of(video: Tensor) -> NDArray[np.uint8]:
    """The inverse of `pixels`: float [b, 3, t, h, w], which may leave [-1, 1], to uint8 [b, t, h, w, 3]."""
    return rearrange(to_bytes(video), "b c t h w -> b t h w c").cpu().numpy()


def weights(masks: np.ndarray, device: str) -> Tensor:
    """What a pixel counts: 1, or more on and right beside an actor. [b, t, h, w] to [b, 1, t, h, w]."""
    near = F.max_pool3d(torch.from_numpy(masks).to(device).float()[:, None], (1, 5, 5), 1, (0, 2, 2))
    return 1 + SUBJECT_WEIGHT * near


def vae_loss(vae: VAE, video: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Weighted absolute error at full and half size and of edges in space, plus KL to the unit Gaussian."""
    mean, log_variance = vae.moments(video)
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    log_variance = log_variance.clamp(-20, 10)
    kl = 0.5 * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).mean()
    sampled = mean + (0.5 * log_variance).exp() * noise
    return reconstruction(vae.reconstruct(sampled).float(), video, weight) + KL_WEIGHT * kl


def reconstruction(output: Tensor, video: Tensor, weight: Tensor) -> Tensor:
    """The part of the loss that compares pictures."""
    error = output - video
    fine = (error.square() + 1e-6).sqrt()
    coarse = F.avg_pool3d(error, (1, 4, 4)).abs()
    across, down = error.diff(dim=-1).abs(), error.diff(dim=-2).abs()
    edges = (across * weight[..., 1:]).mean() + (down * weight[..., 1:, :]).mean()
    total = weight.mean()
    return ((fine * weight).mean() + 0.5 * edges) / total + 0.5 * coarse.mean()


@torch.no_grad()
def measure(vae: nn.Module, store: ClipStore, device: str, clips: int = 24) -> dict[str, float]:
    """PSNR in decibels on held-out clips: of whole frames, of the actors alone, and of the first frames."""
    assert isinstance(vae, VAE)
    whole, actor, first = [], [], []
    for begin in range(0, min(clips, len(store)), 4):  # a batch of one takes torch's slow 3-D convolution
        video = pixels(np.array(store.frames[begin : begin + 4]), device)
        masks = torch.from_numpy(np.array(store.masks[begin : begin + 4]) > 0).to(device)
        output = vae.reconstruct(vae.moments(video)[0]).clamp(-1, 1)
        for error, mask in zip(((output - video) / 2).square().mean(dim=1), masks, strict=True):
            whole.append(error.mean())
            first.append(error[0].mean())
            actor.append(error[mask].mean())
    scores = {"psnr": whole, "psnr actor": actor, "psnr first frame": first}
    return {name: float(-10 * torch.stack(values).mean().log10()) for name, values in scores.items()}


@torch.no_grad()
def statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel of raw latents [n, c, t, h, w]."""
    return latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
