"""The causal video VAE: pixels to latents and back, as a stream. It knows no files, samplers or devices.

Every layer looks only backwards in time, so a video can be handed over in chunks as long as each layer remembers the
last frames it saw: that memory is a `Cache`. Without one, the tensor is the whole video; the result is the same. The
first frame stands alone (1 frame = 1 latent), every further latent covers 4 frames.

Published as `Wan2.1_VAE.pth`; layers and names follow `wan/modules/vae.py`.

Letters: b batch, c channels, t time, h height, w width, n the two frames made from one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lichtspiel.spec import VAESpec

Cache = dict[nn.Module, Tensor]
"""Frames that each causal layer keeps between two chunks of one video (`feat_cache` in the official code)."""


class ConvFn(Protocol):
    """What may replace `conv3d` in a `CausalConv3d`."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int], cached: Tensor | None, /
    ) -> Tensor:
        """See `conv3d`."""


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int], cached: Tensor | None
) -> Tensor:
    """Convolve [b, c, t, h, w], behind the frames `cached` if given, with `padding` in time, height and width."""
    return F.conv3d(x if cached is None else torch.cat([cached, x], dim=2), weight, bias, padding=padding)


def rms_norm(x: Tensor, gamma: Tensor) -> Tensor:
    """Normalize the last dimension. The official code divides by the length and multiplies by the root of the width."""
    return F.rms_norm(x, gamma.shape, gamma, eps=1e-24)


def upsample_conv2d(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Double [n, c, h, w] in height and width by repeating cells, then convolve 3x3 with a padding of 1."""
    return F.conv2d(F.interpolate(frames, scale_factor=2.0, mode="nearest-exact"), weight, bias, padding=1)


def zeros_before(x: Tensor, frames: int) -> Tensor:
    """Frames of zeros to put in front of [b, c, t, h, w], in the same memory format."""
    zeros = x.new_zeros(*x.shape[:2], frames, *x.shape[3:])
    channels_last = torch.channels_last_3d
    return zeros.contiguous(memory_format=channels_last) if x.is_contiguous(memory_format=channels_last) else zeros


class CausalConv3d(nn.Conv3d):
    """A 3-D convolution that pads space on both sides and time only in front: with zeros, or with cached frames.

    `conv_fn` may be replaced from outside by a faster function with the same result.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int]) -> None:
        self.around = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(inputs, outputs, kernel, padding=self.around)
        self.memory = kernel[0] - 1
        self.conv_fn: ConvFn = conv3d

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map [b, c, t, h, w] to the same number of frames."""
        if not self.memory:
            return self.conv_fn(x, self.weight, self.bias, self.around, None)
        cached = None if cache is None else cache.get(self)
        if cached is None:
            cached = zeros_before(x, self.memory)
        result = self.conv_fn(x, self.weight, self.bias, self.around, cached)
        if cache is not None:
            old = max(0, self.memory - x.shape[2])
            cached[:, :, :old] = cached[:, :, self.memory - old :].clone()
            cached[:, :, old:] = x[:, :, old - self.memory :]  # in place, because new memory costs more
            cache[self] = cached
        return result


class RMSNorm(nn.Module):
    """Root-mean-square norm over channels; `spatial` is the number of axes behind them (2 for images, 3 for video).

    `norm_fn` may be replaced from outside, as `CausalConv3d.conv_fn`.
    """

    def __init__(self, width: int, spatial: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *(1,) * spatial))
        self.norm_fn: Callable[[Tensor, Tensor], Tensor] = rms_norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [b, c, ...] over c."""
        return self.norm_fn(x.movedim(1, -1), self.gamma.flatten()).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice, with a shortcut connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(inputs), nn.SiLU(inplace=True), CausalConv3d(inputs, outputs, (3, 3, 3)),
            RMSNorm(outputs), nn.SiLU(inplace=True), nn.Dropout(0.0), CausalConv3d(outputs, outputs, (3, 3, 3)),
        )  # fmt: skip
        self.shortcut = nn.Identity() if inputs == outputs else CausalConv3d(inputs, outputs, (1, 1, 1))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map [b, inputs, t, h, w] to [b, outputs, t, h, w]."""
        shortcut: Tensor = self.shortcut(x)
        return run(self.residual, x, cache).add_(shortcut)


class AttentionBlock(nn.Module):
    """One-head self-attention within each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, spatial=2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, c, t, h, w] to the same shape."""
        b, _, _, h, _ = x.shape
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        qkv = rearrange(self.to_qkv(self.norm(frames)), "b c h w -> b 1 (h w) c")
        attended = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        attended = self.proj(rearrange(attended, "b 1 (h w) c -> b c h w", h=h))
        result: Tensor = x + rearrange(attended, "(b t) c h w -> b c t h w", b=b)
        return result


class Downsample(nn.Module):
    """Halve height and width, and with `temporal` also time, where the first frame passes by itself."""

    def __init__(self, width: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2))
        self.time_conv = nn.Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map [b, c, t, h, w] to half the height and width; time 1 + 2n becomes 1 + n (later chunks: 2n becomes n)."""
        x = per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        cached = None if cache is None else cache.get(self)
        if cache is not None:
            cache[self] = x[:, :, -1:].clone()
        if cached is None:
            return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2) if x.shape[2] > 1 else x
        halved: Tensor = self.time_conv(torch.cat([cached, x], dim=2))
        return halved


class Upsample(nn.Module):
    """Double height and width and halve the channels; with `temporal` double time first, but not the first frame.

    `upsample_fn` may be replaced from outside, as `CausalConv3d.conv_fn`.
    """

    def __init__(self, width: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(width, width // 2, 3, padding=1)
        )
        self.time_conv = CausalConv3d(width, 2 * width, (3, 1, 1)) if temporal else None
        self.upsample_fn: Callable[[Tensor, Tensor, Tensor | None], Tensor] = upsample_conv2d

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map [b, c, t, h, w] to [b, c/2, t', 2h, 2w]; time 1 + n becomes 1 + 2n (later chunks: n becomes 2n)."""
        if self.time_conv is not None:
            x = self._double_time(self.time_conv, x, cache)
        conv = cast(nn.Conv2d, self.resample[1])
        frames = self.upsample_fn(rearrange(x, "b c t h w -> (b t) c h w"), conv.weight, conv.bias)
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))

    @staticmethod
    def _double_time(time_conv: CausalConv3d, x: Tensor, cache: Cache | None) -> Tensor:
        starting = cache is None or time_conv not in cache
        if not starting:
            return two_from_each(time_conv(x, cache))
        first, rest = x[:, :, :1], x[:, :, 1:]
        if cache is not None:
            # The second latent must see zeros, not the first one: that is how the published weights were trained.
            cache[time_conv] = zeros_before(first, time_conv.memory)
        if not rest.shape[2]:
            return first
        return torch.cat([first, two_from_each(time_conv(rest, cache))], dim=2)


def two_from_each(x: Tensor) -> Tensor:
    """The two frames that stand behind one another in the channels of each frame, in the same memory format."""
    if not x.is_contiguous(memory_format=torch.channels_last_3d):
        return rearrange(x, "b (n c) t h w -> b c (t n) h w", n=2)
    return rearrange(x.movedim(1, -1), "b t h w (n c) -> b (t n) h w c", n=2).contiguous().movedim(-1, 1)


def per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply an image layer to every frame of [b, c, t, h, w]."""
    b = x.shape[0]
    frames: Tensor = layer(rearrange(x, "b c t h w -> (b t) c h w"))
    # Channels behind for the split: so a single frame keeps strides that tell its memory format.
    return rearrange(frames.movedim(1, -1), "(b t) h w c -> b t h w c", b=b).movedim(-1, 1)


def run(layers: Iterable[nn.Module], x: Tensor, cache: Cache | None) -> Tensor:
    """Run layers in order and pass `cache` to those that use it."""
    for layer in layers:
        x = layer(x, cache) if isinstance(layer, CausalConv3d | ResidualBlock | Downsample | Upsample) else layer(x)
    return x


def middle(width: int) -> nn.Sequential:
    """The stage at the lowest resolution, the same in encoder and decoder."""
    return nn.Sequential(ResidualBlock(width, width), AttentionBlock(width), ResidualBlock(width, width))


class Encoder(nn.Module):
    """Pixels [b, 3, t, h, w] to the mean and log-variance of latents, stacked on the channel axis."""

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        widths = [spec.width * m for m in (1, *spec.multipliers)]
        self.conv1 = CausalConv3d(3, widths[0], (3, 3, 3))
        layers: list[nn.Module] = []
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            for block in range(spec.residual_blocks):
                layers.append(ResidualBlock(inputs if block == 0 else outputs, outputs))
            if stage < len(spec.temporal_downsample):
                layers.append(Downsample(outputs, spec.temporal_downsample[stage]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = middle(widths[-1])
        self.head = nn.Sequential(
            RMSNorm(widths[-1]), nn.SiLU(inplace=True), CausalConv3d(widths[-1], 2 * spec.latent_channels, (3, 3, 3))
        )
        self.timed = next(i for i, layer in enumerate(layers) if isinstance(layer, Downsample) and layer.time_conv)

    def forward(self, x: Tensor, cache: Cache | None = None, chunk_frames: int | None = None) -> Tensor:
        """See the class. With a cache, the layers before the first that halves time, whose activations are the largest,
        process `chunk_frames` frames at a time; by default all at once."""
        layers = list(self.downsamples)
        wide, narrow = layers[: self.timed], layers[self.timed :]
        parts = [
            run(wide, self.conv1(part, cache), cache) for part in torch.split(x, chunk_frames or x.shape[2], dim=2)
        ]
        x = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        for stage in (narrow, self.middle, self.head):
            x = run(stage, x, cache)
        return x


class Decoder(nn.Module):
    """Latents [b, c, t, h, w] to pixels [b, 3, 1 + 4(t-1), 8h, 8w] (later chunks: 4t frames)."""

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        widths = [spec.width * m for m in (spec.multipliers[-1], *reversed(spec.multipliers))]
        self.conv1 = CausalConv3d(spec.latent_channels, widths[0], (3, 3, 3))
        self.middle = middle(widths[0])
        temporal = tuple(reversed(spec.temporal_downsample))
        layers: list[nn.Module] = []
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            first = inputs if stage == 0 else inputs // 2  # every Upsample halves the channels
            for block in range(spec.residual_blocks + 1):
                layers.append(ResidualBlock(first if block == 0 else outputs, outputs))
            if stage < len(temporal):
                layers.append(Upsample(outputs, temporal[stage]))
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(RMSNorm(widths[-1]), nn.SiLU(inplace=True), CausalConv3d(widths[-1], 3, (3, 3, 3)))
        self.timed = 1 + max(i for i, layer in enumerate(layers) if isinstance(layer, Upsample) and layer.time_conv)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """See the class."""
        (x,) = self.parts(x, cache, None)
        return x

    def parts(self, x: Tensor, cache: Cache | None, chunk_frames: int | None) -> Iterator[Tensor]:
        """The same in parts: with a cache, the layers behind the last that doubles time, whose activations are the
        largest, process `chunk_frames` frames at a time; by default all at once."""
        layers = list(self.upsamples)
        x = self.conv1(x, cache)
        for stage in (self.middle, layers[: self.timed]):
            x = run(stage, x, cache)
        for part in torch.split(x, chunk_frames or x.shape[2], dim=2):
            yield run([*layers[self.timed :], *self.head], part, cache)


class VAE(nn.Module):
    """Encoder and decoder with the statistics that bring each latent channel to zero mean and unit variance.

    `mean` and `std` have one value per latent channel and come from the specification, which leaves them 0 and 1 for a
    VAE that is still to be trained. Pixels are in [-1, 1]. A video has 1 + 4n frames and a height and width divisible
    by 8 (for the stride of Wan2.1's VAE, as all shapes in this file). `encode` and `decode` compute in the weights'
    dtype, and take and return float32. The largest layers of `encode` and
    `decode` process `chunk_frames` frames at once, at most 4: fewer need less memory and a little more time.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        space = 2 ** len(spec.temporal_downsample)
        assert spec.stride == (2 ** sum(spec.temporal_downsample), space, space), "every stage halves height and width"
        self.spec = spec
        self.chunk_frames = spec.stride[0]
        self.encoder = Encoder(spec)
        self.conv1 = CausalConv3d(2 * spec.latent_channels, 2 * spec.latent_channels, (1, 1, 1))
        self.conv2 = CausalConv3d(spec.latent_channels, spec.latent_channels, (1, 1, 1))
        self.decoder = Decoder(spec)
        for name, values, neutral in (("mean", spec.latent_mean, 0.0), ("std", spec.latent_std, 1.0)):
            # On the CPU also while the rest is built without memory: these are not among the weights that follow.
            value = torch.tensor(values or [neutral] * spec.latent_channels, device="cpu")
            self.register_buffer(name, value.view(1, -1, 1, 1, 1), persistent=False)

    def moments(
        self, video: Tensor, cache: Cache | None = None, chunk_frames: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the raw (not normalized) latents of `video`, each [b, c, t', h/8, w/8]."""
        mean, log_variance = self.conv1(self.encoder(video, cache, chunk_frames)).chunk(2, dim=1)
        return mean, log_variance

    def reconstruct(self, raw: Tensor, cache: Cache | None = None) -> Tensor:
        """Pixels of raw latents, not clamped."""
        pixels: Tensor = self.decoder(self.conv2(raw), cache)
        return pixels

    def encode(self, video: Tensor) -> Tensor:
        """Normalized latents [b, c, 1 + n, h/8, w/8] of a video [b, 3, 1 + 4n, h, w]; takes no random sample.

        Works in the official chunks of 1, 4, 4, ... frames, so that activations never hold more than four frames.
        """
        stride = self.spec.stride[0]
        assert video.shape[2] % stride == 1, "a video has 1 + 4n frames"
        return self.encode_parts([video[:, :, :1], *torch.split(video[:, :, 1:], stride, dim=2)])

    def encode_parts(self, parts: Iterable[Tensor]) -> Tensor:
        """The same of a video that comes in parts of 1, 4, 4, ... frames, so that it is never held as a whole."""
        cache: Cache = {}
        dtype = self.conv1.weight.dtype
        means = [self.moments(part.to(dtype), cache, self.chunk_frames)[0] for part in parts if part.shape[2]]
        return (torch.cat(means, dim=2).float() - self.mean) / self.std

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Pixels of normalized latents in [-1, 1], one latent frame at a time: first 1 frame, then 4, in parts of up to
        `chunk_frames` frames."""
        cache: Cache = {}
        for latent in torch.split(latents, 1, dim=2):
            raw = self.conv2((latent * self.std + self.mean).to(self.conv2.weight.dtype))
            for pixels in self.decoder.parts(raw, cache, self.chunk_frames):
                yield pixels.float().clamp(-1, 1)
