"""Training a video VAE from scratch: reconstruction, a little KL, and PSNR on clips it has never seen.

The whole clip runs through the network at once; a test checks that this equals streaming, as generation does. Where a
mask shows the subject, crops are drawn around it and its pixels count more, because backdrops are easy and people look
at the subject.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.inference.gpu import channels_last, layout
from lichtspiel.inference.norms import fuse_norms, unfit
from lichtspiel.inference.pixels import normalize, to_bytes
from lichtspiel.models.vae import VAE
from lichtspiel.spec import VAESpec
from lichtspiel.train.data import Dataset, Frames, of_length
from lichtspiel.train.optim import OptimizerFactory
from lichtspiel.train.state import Budget, Logger, Run, Weights

SUBJECT_WEIGHT = 3.0
"""How much more a subject's pixels count than the backdrop's."""

KL_WEIGHT = 1e-4


@dataclass(frozen=True, kw_only=True)
class VAEPlan:
    """Settings of one VAE run: crops of `crop` pixels, `batch` of them in each of a step's `accumulate` parts.

    Each part draws one of the lengths in `frames`: short clips allow more steps, but a network that has seen nothing
    else drifts later in a video. After the fraction `decay_from` of the budget, while the learning rate falls to zero,
    every part uses the last of these lengths. `start` may hold weights of the module "vae" to begin from.
    """

    budget: Budget
    crop: int
    frames: tuple[int, ...]
    batch: int
    optimizer: OptimizerFactory
    decay_from: float
    device: str
    seed: int
    accumulate: int = 1
    start: Weights = field(default_factory=dict)


def train_vae(
    plan: VAEPlan, spec: VAESpec, data: Dataset, held_out: Dataset, folder: Path, *, log: Logger = print
) -> VAE:
    """Train until the budget is spent, resuming from `folder` if it has a checkpoint, and return the averaged VAE.

    Raises InvalidInput for crops or lengths that the network or the data do not support.
    """
    _check(plan, spec, data)
    torch.manual_seed(plan.seed)
    vae = placed(blank_vae(spec), plan.device)
    modules: dict[str, nn.Module] = {"vae": vae}
    run = Run(modules, plan.optimizer(modules), plan.budget, folder, plan.seed, plan.accumulate)
    if not run.resume():
        run.start_from(plan.start)
    items = {frames: of_length(data, frames) for frames in plan.frames}
    for step in run.steps():
        for _ in run.parts():
            generator = run.generator()
            early = run.progress < plan.decay_from
            frames = plan.frames[int(torch.randint(len(plan.frames), (), generator=generator)) if early else -1]
            video, weight = draw_crops(data, items[frames], plan, frames, generator)
            with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device == "cuda"):
                loss = vae_loss(vae, video, weight, run.generator(1))
            run.backward(loss, kind=str(frames))
        run.update(decay_from=plan.decay_from)
        if step % 50 == 0:
            seconds = run.seconds / max(step, 1)
            scores = measure(run.averages["vae"], held_out, plan.device) if step % 400 == 0 else {}
            metrics = {"step": step, "progress": run.progress, "loss": float(loss.detach()), "seconds/step": seconds}
            log(metrics | scores)
    averaged = run.averages["vae"]
    assert isinstance(averaged, VAE)
    log({"step": run.step, "progress": 1.0, **measure(averaged, held_out, plan.device)})
    return averaged


def _check(plan: VAEPlan, spec: VAESpec, data: Dataset) -> None:
    time, side, _ = spec.stride
    largest = min(data.shape.width, data.shape.height)
    if plan.crop % side or plan.crop > largest or any(frames % time != 1 for frames in plan.frames):
        raise InvalidInput(
            f"a VAE trains on crops of a multiple of {side} pixels, here at most {largest}, and {time}n+1 frames"
        )
    if not of_length(data, max(plan.frames)):
        raise InvalidInput(f"none of the clips has {max(plan.frames)} frames; choose fewer")


def blank_vae(spec: VAESpec) -> VAE:
    """A new VAE, which does not normalize its latents yet."""
    vae = VAE(replace(spec, latent_mean=None, latent_std=None))
    use_cpu_kernels(vae)  # used only without gradients, to encode and measure clips
    return vae


def placed(vae: VAE, device: str) -> VAE:
    """A VAE on its device in channels-last; on CUDA with fused norms, or with a line that says why not."""
    vae = layout(vae).to(device)
    if torch.device(device).type == "cuda":
        channels_last(vae)
        reason = unfit(torch.device(device))
        if reason is None:
            fuse_norms(vae)
        else:
            print(reason, file=sys.stderr)
    return vae


def draw_crops(
    data: Dataset, items: Sequence[int], plan: VAEPlan, frames: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random crops of random items, [b, 3, t, s, s] in [-1, 1], and the weight of every pixel [b, 1, t, s, s]."""
    videos, masks = [], []
    for _ in range(plan.batch):
        index = items[_below(len(items), generator)]
        video, mask = data.video(index), data.mask(index)
        begin = _below(len(video) - frames + 1, generator)
        mask = np.zeros(video.shape[:3], np.uint8) if mask is None else mask
        mask = np.asarray(mask[begin : begin + frames])
        window = _window(mask[frames // 2], plan.crop, generator)
        videos.append(np.asarray(video[begin : begin + frames])[:, *window])
        masks.append(mask[:, *window] > 0)
    return pixels(np.stack(videos), plan.device), weights(np.stack(masks), plan.device)


def _window(mask: Frames, crop: int, generator: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random crop of a frame [h, w]; if the mask has a subject, four of five crops show it."""
    height, width = mask.shape
    spread = crop // 2
    rows, columns = np.nonzero(mask)
    row, column = _below(height, generator), _below(width, generator)
    if len(rows) and _below(5, generator):
        row = int(rows.mean()) + _below(spread, generator) - spread // 2
        column = int(columns.mean()) + _below(spread, generator) - spread // 2
    top = min(max(row - crop // 2, 0), height - crop)
    left = min(max(column - crop // 2, 0), width - crop)
    return slice(top, top + crop), slice(left, left + crop)


def _below(limit: int, generator: torch.Generator) -> int:
    """A random integer from 0 to `limit` - 1."""
    return int(torch.randint(limit, (), generator=generator)) if limit > 0 else 0


def pixels(frames: Frames, device: str) -> Tensor:
    """uint8 [b, t, h, w, 3] to float [b, 3, t, h, w] in [-1, 1]."""
    video = normalize(torch.from_numpy(frames).to(device))
    return rearrange(video, "b t h w c -> b c t h w")


def frames_of(video: Tensor) -> Frames:
    """The inverse of `pixels`: float [b, 3, t, h, w], which may exceed [-1, 1], to uint8 [b, t, h, w, 3]."""
    return rearrange(to_bytes(video), "b c t h w -> b t h w c").cpu().numpy()


def weights(masks: np.ndarray, device: str) -> Tensor:
    """The weight of each pixel, from masks [b, t, h, w] to [b, 1, t, h, w]: 1, and more on or next to the subject."""
    near = F.max_pool3d(torch.from_numpy(masks).to(device).float()[:, None], (1, 5, 5), 1, (0, 2, 2))
    return 1 + SUBJECT_WEIGHT * near


def vae_loss(vae: VAE, video: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Weighted absolute error at full size, at half size and of spatial edges, plus the KL to the unit Gaussian."""
    mean, log_variance = vae.moments(video)
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    log_variance = log_variance.clamp(-20, 10)
    kl = 0.5 * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).mean()
    sampled = mean + (0.5 * log_variance).exp() * noise
    return reconstruction(vae.reconstruct(sampled).float(), video, weight) + KL_WEIGHT * kl


def reconstruction(output: Tensor, video: Tensor, weight: Tensor) -> Tensor:
    """The part of the loss that compares pixels."""
    error = output - video
    fine = (error.square() + 1e-6).sqrt()
    coarse = F.avg_pool3d(error, (1, 4, 4)).abs()
    across, down = error.diff(dim=-1).abs(), error.diff(dim=-2).abs()
    edges = (across * weight[..., 1:]).mean() + (down * weight[..., 1:, :]).mean()
    total = weight.mean()
    return ((fine * weight).mean() + 0.5 * edges) / total + 0.5 * coarse.mean()


@torch.no_grad()
def measure(vae: nn.Module, data: Dataset, device: str, clips: int = 24) -> dict[str, float]:
    """PSNR in decibels on held-out clips: of whole frames, of the subject where masks show it, and of first frames."""
    assert isinstance(vae, VAE)
    items = of_length(data, data.shape.frames)[:clips]
    whole, subject, first = [], [], []
    for begin in range(0, len(items), 4):  # a batch of one takes torch's slow 3-D convolution
        batch = items[begin : begin + 4]
        video = pixels(np.stack([data.video(index) for index in batch]), device)
        output = vae.reconstruct(vae.moments(video)[0]).clamp(-1, 1)
        errors = ((output - video) / 2).square().mean(dim=1)
        for index, error in zip(batch, errors, strict=True):
            whole.append(error.mean())
            first.append(error[0].mean())
            mask = data.mask(index)
            if mask is not None:
                subject.append(error[torch.from_numpy(np.array(mask) > 0).to(device)].mean())
    scores = {"psnr": whole, "psnr subject": subject, "psnr first frame": first}
    return {name: float(-10 * torch.stack(values).mean().log10()) for name, values in scores.items() if values}


@torch.no_grad()
def statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel of raw latents [n, c, t, h, w]."""
    return latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
