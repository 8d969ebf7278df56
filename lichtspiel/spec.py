"""The registry: every checkpoint Lichtspiel knows, with all of its constants.

Pure data: no torch, no files, no network. Shapes come from the published Wan2.1 configurations
(`wan/configs/*.py` and the checkpoints' `config.json`); sampling defaults from `generate.py` and the README of the
same repository. A specification has no default values, so that nothing about a model is implied.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from lichtspiel.errors import RequestError

__all__ = [
    "MODELS",
    "CLIPSpec",
    "DiTSpec",
    "FitMode",
    "Model",
    "Part",
    "Sampling",
    "SolverName",
    "Task",
    "UMT5Spec",
    "VAESpec",
    "model",
]

Task = Literal["text", "image", "first-last", "edit"]
SolverName = Literal["unipc", "dpm++", "euler", "lcm"]
Part = Literal["dit", "vae", "umt5", "clip"]
FitMode = Literal["crop", "pad", "stretch"]
Size = tuple[int, int]


LONGEST_SECONDS = 60
"""How long a video may be that is made in windows."""


@dataclass(frozen=True, kw_only=True)
class DiTSpec:
    """Shape of a diffusion transformer. `patch` is the number of latent cells per token in time, height and width;
    `image_tokens` is 0 without image cross-attention, else 257 per image."""

    patch: tuple[int, int, int]
    width: int
    ffn_width: int
    heads: int
    layers: int
    in_channels: int
    out_channels: int
    time_width: int
    text_width: int
    text_length: int
    image_tokens: int
    image_width: int
    vace_layers: tuple[int, ...]
    vace_channels: int
    eps: float

    def __post_init__(self) -> None:
        assert self.width % (2 * self.heads) == 0, "every head needs an even width for rotary angles"
        assert self.time_width % 2 == 0
        assert self.image_tokens in (0, 257, 514)
        assert all(0 <= layer < self.layers for layer in self.vace_layers)

    def tokens(self, cells: Iterable[int]) -> int:
        """Number of tokens of latents with the given cells in time, height and width."""
        return math.prod(count // patch for count, patch in zip(cells, self.patch, strict=True))


@dataclass(frozen=True, kw_only=True)
class VAESpec:
    """Shape of a causal video VAE.

    `stride` counts the pixels of a latent cell in time, height and width; the first frame has a cell of its own.
    `temporal_downsample` says which encoder stages halve time. `latent_mean` and `latent_std` normalize each channel of
    the latents; they are None if the weights' file holds them.
    """

    width: int
    stride: tuple[int, int, int]
    latent_channels: int
    latent_mean: tuple[float, ...] | None
    latent_std: tuple[float, ...] | None
    multipliers: tuple[int, ...]
    residual_blocks: int
    temporal_downsample: tuple[bool, ...]

    def __post_init__(self) -> None:
        assert len(self.temporal_downsample) == len(self.multipliers) - 1
        assert all(
            values is None or len(values) == self.latent_channels for values in (self.latent_mean, self.latent_std)
        )

    def frames(self, cells: int) -> int:
        """Number of frames of latents that are `cells` long."""
        return 1 + (cells - 1) * self.stride[0]


@dataclass(frozen=True, kw_only=True)
class UMT5Spec:
    """Shape of a UMT5 encoder. `vocabulary` counts rows of the embedding; nano keeps only the rows it uses."""

    vocabulary: int
    width: int
    attention_width: int
    ffn_width: int
    heads: int
    layers: int
    buckets: int
    max_distance: int
    eps: float


@dataclass(frozen=True, kw_only=True)
class CLIPSpec:
    """Shape of the CLIP vision tower; `used_layers` is how many of `layers` blocks run (the official code skips the
    last one and the final norm)."""

    image_size: int
    patch: int
    width: int
    mlp_ratio: int
    heads: int
    layers: int
    used_layers: int
    eps: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Defaults and limits of a checkpoint. Sizes are (width, height) in pixels; `free_size` allows every multiple of
    `Model.grid` up to the largest area in `sizes`; `shift` moves the schedule toward noise. Where `holds_pictures`, a
    given first picture is held while the rest is denoised; the published models are sampled without. `upscale` is how
    many times wider and higher frames become after decoding."""

    solver: SolverName
    steps: int
    guidance: float
    shift: float
    frames: int
    max_frames: int
    fps: int
    sizes: tuple[Size, ...]
    free_size: bool
    negative: str
    holds_pictures: bool
    upscale: Literal[1, 2, 4]


@dataclass(frozen=True, kw_only=True)
class Model:
    """One checkpoint: what it can do, its parts' shapes, how it is sampled and where its files are published.

    `files` names each part's file in the official folder, as a glob where the file is sharded; `digests` holds the
    SHA-256 of files, where it is known.
    """

    name: str
    title: str
    tasks: frozenset[Task]
    dit: DiTSpec
    vae: VAESpec
    umt5: UMT5Spec
    clip: CLIPSpec | None
    sampling: Sampling
    repository: str
    licence: str
    files: dict[Part, str]
    digests: dict[str, str]

    @property
    def embedded(self) -> bool:
        """Whether the weights ship inside this package."""
        return not self.repository

    @property
    def grid(self) -> int:
        """Pixels along the side of a token: widths and heights are multiples of it."""
        return self.vae.stride[1] * self.dit.patch[1]

    @property
    def frame_rule(self) -> str:
        """Which numbers of frames are valid, such as 4n+1."""
        return f"{self.vae.stride[0]}n+1"

    @property
    def longest(self) -> int:
        """The largest number of frames that is made in windows: those of a minute. It is 1 for models of pictures."""
        stride, sampling = self.vae.stride[0], self.sampling
        return 1 if sampling.max_frames == 1 else LONGEST_SECONDS * sampling.fps // stride * stride + 1

    @property
    def open_ended(self) -> bool:
        """Whether longer videos than the network makes at once are made in windows without being asked."""
        return not self.embedded and self.sampling.max_frames > 1

    def nearest_frames(self, frames: int, least: int = 1, most: int | None = None) -> int:
        """The nearest valid number of frames, from `least` to `most`, or to what the network makes at once."""
        stride = self.vae.stride[0]
        return min(max(round((frames - 1) / stride) * stride + 1, least), most or self.sampling.max_frames)

    def latent_shape(self, frames: int, size: Size) -> tuple[int, int, int]:
        """Latent cells of a video in time, height and width; `size` is (width, height)."""
        time, rows, columns = self.vae.stride
        return 1 + (frames - 1) // time, size[1] // rows, size[0] // columns

    @property
    def parameters(self) -> int:
        """Number of DiT parameters, counted from the specification."""
        return dit_parameters(self.dit)


def dit_parameters(spec: DiTSpec) -> int:
    """Count the parameters of a DiT from its shape alone (layer list: `wan/modules/model.py`)."""
    d, f = spec.width, spec.ffn_width
    patch = math.prod(spec.patch)

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    attention = 4 * linear(d, d) + 2 * d  # q, k, v, o and the two query/key norms
    image_attention = (2 * linear(d, d) + d) if spec.image_tokens else 0
    ffn = linear(d, f) + linear(f, d)
    block = 2 * attention + image_attention + ffn + 2 * d + 6 * d  # norm3 is affine; modulation has six rows
    total = linear(spec.in_channels * patch, d) + spec.layers * block
    total += linear(spec.text_width, d) + linear(d, d)  # text embedding
    total += linear(spec.time_width, d) + linear(d, d) + linear(d, 6 * d)  # time embedding and projection
    total += linear(d, spec.out_channels * patch) + 2 * d  # head
    if spec.image_tokens:
        w = spec.image_width
        total += 2 * w + linear(w, w) + linear(w, d) + 2 * d
        total += spec.image_tokens * w if spec.image_tokens > 257 else 0
    if spec.vace_layers:
        total += linear(spec.vace_channels * patch, d)
        total += len(spec.vace_layers) * (block + linear(d, d)) + linear(d, d)
    return total


_DIT_1_3B = DiTSpec(
    patch=(1, 2, 2), width=1536, ffn_width=8960, heads=12, layers=30, in_channels=16, out_channels=16, time_width=256,
    text_width=4096, text_length=512, image_tokens=0, image_width=1280, vace_layers=(), vace_channels=96, eps=1e-6,
)  # fmt: skip
_DIT_14B = DiTSpec(
    patch=(1, 2, 2), width=5120, ffn_width=13824, heads=40, layers=40, in_channels=16, out_channels=16, time_width=256,
    text_width=4096, text_length=512, image_tokens=0, image_width=1280, vace_layers=(), vace_channels=96, eps=1e-6,
)  # fmt: skip


def _with(base: DiTSpec, **changes: Any) -> DiTSpec:
    return replace(base, **changes)


_DIT_I2V = _with(_DIT_14B, in_channels=36, image_tokens=257)
_DIT_FLF2V = _with(_DIT_14B, in_channels=36, image_tokens=514)
_DIT_VACE_1_3B = _with(_DIT_1_3B, vace_layers=tuple(range(0, 30, 2)))
_DIT_VACE_14B = _with(_DIT_14B, vace_layers=tuple(range(0, 40, 5)))

_VAE = VAESpec(  # mean and standard deviation of the latents: `wan/modules/vae.py`
    width=96, stride=(4, 8, 8), latent_channels=16,
    latent_mean=(
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ),
    latent_std=(
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ),
    multipliers=(1, 2, 4, 4), residual_blocks=2, temporal_downsample=(False, True, True),
)  # fmt: skip

_UMT5 = UMT5Spec(
    vocabulary=256384, width=4096, attention_width=4096, ffn_width=10240, heads=64, layers=24, buckets=32,
    max_distance=128, eps=1e-6,
)  # fmt: skip
_CLIP = CLIPSpec(image_size=224, patch=14, width=1280, mlp_ratio=4, heads=16, layers=32, used_layers=31, eps=1e-5)

NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""The official negative prompt (`wan/configs/shared_config.py`)."""
NEGATIVE_IMAGE = "镜头晃动，" + NEGATIVE
"""The same with the prefix against camera shake that image to video uses (`wan/configs/wan_i2v_14B.py`)."""
NEGATIVE_FIRST_LAST = "镜头切换，" + NEGATIVE_IMAGE
"""The same with a prefix against cuts on top (`wan/configs/__init__.py`)."""

_480P: tuple[Size, ...] = ((832, 480), (480, 832))
_720P: tuple[Size, ...] = ((1280, 720), (720, 1280))


def _sampling(
    *, steps: int, guidance: float, shift: float, sizes: tuple[Size, ...], negative: str, frames: int = 81
) -> Sampling:
    return Sampling(
        solver="unipc", steps=steps, guidance=guidance, shift=shift, frames=frames, max_frames=161 if frames > 1 else 1,
        fps=16, sizes=sizes, free_size=True, negative=negative, holds_pictures=False, upscale=1,
    )  # fmt: skip


_FILES: dict[Part, str] = {
    "dit": "diffusion_pytorch_model*.safetensors",
    "vae": "Wan2.1_VAE.pth",
    "umt5": "models_t5_umt5-xxl-enc-bf16.pth",
}
_CLIP_FILE: dict[Part, str] = {"clip": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"}


def _wan(name: str, title: str, tasks: set[Task], dit: DiTSpec, sampling: Sampling, *, repository: str = "") -> Model:
    return Model(
        name=name, title=title, tasks=frozenset(tasks), dit=dit, vae=_VAE, umt5=_UMT5,
        clip=_CLIP if dit.image_tokens else None, sampling=sampling, repository=repository, licence="Apache-2.0",
        files=_FILES | _CLIP_FILE if dit.image_tokens else _FILES, digests={},
    )  # fmt: skip


_NANO = Model(
    name="nano",
    title="Embedded model of this package: toybox clips from text, a first image, or a first and a last image",
    tasks=frozenset({"text", "image", "first-last"}),
    dit=DiTSpec(
        patch=(1, 2, 2), width=256, ffn_width=1024, heads=4, layers=8, in_channels=36, out_channels=16, time_width=256,
        text_width=256, text_length=48, image_tokens=0, image_width=0, vace_layers=(), vace_channels=0, eps=1e-6,
    ),
    vae=VAESpec(
        width=32, stride=(4, 8, 8), latent_channels=16, latent_mean=None, latent_std=None, multipliers=(1, 2, 4, 4),
        residual_blocks=1, temporal_downsample=(False, True, True),
    ),
    umt5=UMT5Spec(
        vocabulary=729, width=256, attention_width=256, ffn_width=512, heads=4, layers=4, buckets=32,
        max_distance=128, eps=1e-6,
    ),
    clip=None,
    sampling=Sampling(
        solver="euler", steps=16, guidance=5.0, shift=3.0, frames=17, max_frames=17, fps=8, sizes=((128, 128),),
        free_size=False, negative="", holds_pictures=True, upscale=4,
    ),
    repository="",
    licence="Apache-2.0",
    files={"dit": "dit.gguf", "vae": "vae-*.safetensors", "umt5": "umt5.gguf"},
    digests={
        "dit.gguf": "769f9b0e965538515600e2d60a0a541654ce8fd73609d2f4913f8fe445e8348d",
        "umt5.gguf": "ba70523d5b8f9b302952915ff4cac6007f4335da706a033e9047428356fee6d4",
        "vae-00001-of-00002.safetensors": "1d2e67fb9f559323817cd2afadd1d2987b9a867a7c849158705a61b30014e69f",
        "vae-00002-of-00002.safetensors": "ac1c5167ddf8733f559a231232bed625b074b5afddbbb946e9591542c510b420",
    },
)  # fmt: skip

# 1.3B: steps, guidance and shift are the README's recommendation; the others are the defaults of `generate.py`.
MODELS: dict[str, Model] = {
    "nano": _NANO,
    "t2v-1.3b": _wan(
        "t2v-1.3b", "Wan2.1 text to video, 1.3B", {"text"}, _DIT_1_3B,
        _sampling(steps=50, guidance=6.0, shift=8.0, sizes=_480P, negative=NEGATIVE),
        repository="Wan-AI/Wan2.1-T2V-1.3B",
    ),
    "t2v-14b": _wan(
        "t2v-14b", "Wan2.1 text to video, 14B", {"text"}, _DIT_14B,
        _sampling(steps=50, guidance=5.0, shift=5.0, sizes=_720P + _480P, negative=NEGATIVE),
        repository="Wan-AI/Wan2.1-T2V-14B",
    ),
    "t2i-14b": _wan(
        "t2i-14b", "Wan2.1 text to image: the weights of t2v-14b, one frame", {"text"}, _DIT_14B,
        _sampling(
            steps=50, guidance=5.0, shift=5.0, sizes=((1024, 1024), *_720P, *_480P), negative=NEGATIVE, frames=1
        ),
        repository="Wan-AI/Wan2.1-T2V-14B",
    ),
    "i2v-14b-480p": _wan(
        "i2v-14b-480p", "Wan2.1 image to video, 14B, 480P", {"image"}, _DIT_I2V,
        _sampling(steps=40, guidance=5.0, shift=3.0, sizes=_480P, negative=NEGATIVE_IMAGE),
        repository="Wan-AI/Wan2.1-I2V-14B-480P",
    ),
    "i2v-14b-720p": _wan(
        "i2v-14b-720p", "Wan2.1 image to video, 14B, 720P", {"image"}, _DIT_I2V,
        _sampling(steps=40, guidance=5.0, shift=5.0, sizes=_720P, negative=NEGATIVE_IMAGE),
        repository="Wan-AI/Wan2.1-I2V-14B-720P",
    ),
    "flf2v-14b": _wan(
        "flf2v-14b", "Wan2.1 first and last frame to video, 14B", {"first-last"}, _DIT_FLF2V,
        _sampling(steps=50, guidance=5.5, shift=16.0, sizes=_720P + _480P, negative=NEGATIVE_FIRST_LAST),
        repository="Wan-AI/Wan2.1-FLF2V-14B-720P",
    ),
    "vace-1.3b": _wan(
        "vace-1.3b", "Wan2.1 VACE: edit, inpaint, extend and reference to video, 1.3B", {"text", "edit"},
        _DIT_VACE_1_3B, _sampling(steps=50, guidance=5.0, shift=16.0, sizes=_480P, negative=NEGATIVE),
        repository="Wan-AI/Wan2.1-VACE-1.3B",
    ),
    "vace-14b": _wan(
        "vace-14b", "Wan2.1 VACE: edit, inpaint, extend and reference to video, 14B", {"text", "edit"},
        _DIT_VACE_14B, _sampling(steps=50, guidance=5.0, shift=16.0, sizes=_720P + _480P, negative=NEGATIVE),
        repository="Wan-AI/Wan2.1-VACE-14B",
    ),
}  # fmt: skip


def model(name: str) -> Model:
    """Look a checkpoint up by its exact name; raises RequestError with all names, and the nearest, otherwise."""
    if not isinstance(name, str) or name not in MODELS:
        raise RequestError("model", name, f"known models are {', '.join(MODELS)}", _closest(str(name)))
    return MODELS[name]


def _closest(name: str) -> str | None:
    """The model whose name or repository, such as "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", is spelled most alike."""
    names = {row.repository.lower(): row.name for row in MODELS.values() if row.repository}
    names |= {row.name: row.name for row in MODELS.values()}
    matches = difflib.get_close_matches(
        name.removeprefix("https://huggingface.co/").lower().removesuffix("-diffusers"), names, n=1, cutoff=0.75
    )
    return names[matches[0]] if matches else None
