"""Encode samples and captions into a cache: first the texts, then the frames, one network in memory at a time.

What is already there and was made by the same networks is kept, so an interrupted run goes on where it stopped, and a
changed caption costs a second.

Letters: c channels, t, h, w latent time, height and width, f frames, y, x pixels.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lichtspiel.errors import OutputError
from lichtspiel.frames import Frame
from lichtspiel.host import computing_dtype, free_memory
from lichtspiel.inference.conditioning import letterbox, vace_context, video_of
from lichtspiel.inference.conditions import finite
from lichtspiel.inference.cpu import use_cpu_kernels
from lichtspiel.inference.pixels import from_pixels, normalize
from lichtspiel.inference.plan import Plan, plan
from lichtspiel.media.media import read_frames
from lichtspiel.models.clip import CLIPVision, preprocess
from lichtspiel.models.vae import VAE
from lichtspiel.spec import Model, Part
from lichtspiel.tune.cache import (
    CLIP,
    FIRST,
    FIRST_LAST,
    LATENTS,
    VACE,
    VACE_MASK,
    WEIGHT,
    has_tensors,
    sample_path,
    text_path,
    write_tensors,
)
from lichtspiel.tune.dataset import Bucket, Sample
from lichtspiel.tune.samples import read_sample
from lichtspiel.weights.checkpoint import Checkpoint

__all__ = ["Encoder", "sample_bytes"]

REMEDY = "check the weights with `lichtspiel inspect`"
"""What to do about values that are not finite."""

STATES_BYTES = 1_000_000
"""What to reckon with for the text states of a caption."""


@dataclass(frozen=True)
class Encoder:
    """Encodes for one model into one cache folder. `dtype` is the precision of the text encoder and the CLIP tower; the
    VAE always computes in float32."""

    row: Model
    files: Checkpoint
    folder: Path
    device: str
    dtype: torch.dtype

    @classmethod
    def of(cls, row: Model, files: Checkpoint, folder: Path, device: str) -> Encoder:
        """An encoder in the fastest precision of the device."""
        return cls(row, files, folder, device, computing_dtype(torch.device(device).type))

    @property
    def made_by(self) -> dict[str, str]:
        """The fingerprints of the networks that encode."""
        parts: tuple[Part, ...] = ("vae", "umt5") if self.row.clip is None else ("vae", "umt5", "clip")
        prints = self.files.fingerprints()
        return {part: prints[part] for part in parts}

    def _text_maker(self) -> dict[str, str]:
        return {"umt5": self.made_by["umt5"], "precision": str(self.dtype).removeprefix("torch.")}

    def _frame_maker(self) -> dict[str, str]:
        """The networks that see frames, and what is made with them: models of other tasks need other conditions."""
        kind = [*sorted(self.row.tasks), f"{self.row.sampling.fps} fps", "vace" if self.row.dit.vace_layers else ""]
        return {part: name for part, name in self.made_by.items() if part != "umt5"} | {"for": " ".join(kind).strip()}

    def missing(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples that are not in the cache yet, each once."""
        maker = self._frame_maker()
        unique = {sample.key: sample for sample in samples}
        return [one for key, one in unique.items() if not has_tensors(sample_path(self.folder, key), maker)]

    def check_disk(self, samples: Sequence[Sample], captions: int) -> None:
        """Raise OutputError if the disk does not have room for what is still to be written."""
        needed = captions * STATES_BYTES + sum(sample_bytes(self.row, one.bucket) for one in self.missing(samples))
        place = self.folder
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if needed > free:
            raise OutputError(
                f"{self.folder}: the cache needs {needed / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free; free "
                "some, or put it on another disk with --cache"
            )

    def missing_texts(self, captions: Sequence[str]) -> list[str]:
        """The captions that are not in the cache yet, each once, and the empty one, which guidance needs."""
        maker = self._text_maker()
        texts = dict.fromkeys(["", *captions])
        return [text for text in texts if not has_tensors(text_path(self.folder, text), maker)]

    def encode_texts(self, captions: Sequence[str], progress: Callable[[str, float], None]) -> None:
        """Encode the captions that are not in the cache yet, and the empty one."""
        maker, texts = self._text_maker(), self.missing_texts(captions)
        if not texts:
            return
        tokenizer = self.files.tokenizer()
        planned = self._plan(Bucket(width=self.row.grid, height=self.row.grid, frames=1))
        umt5 = self.files.umt5(self.dtype, torch.device(self.device), resident=planned.stage("umt5").resident)
        self._prepared(umt5)
        with torch.inference_mode():
            for number, text in enumerate(texts):
                progress("encoding captions", number / len(texts))
                states = umt5(torch.tensor([tokenizer(text)], device=self.device))
                write_tensors(text_path(self.folder, text), {"states": finite("text encoder", states, REMEDY)}, maker)
        del umt5
        gc.collect()

    def encode_samples(self, samples: Sequence[Sample], progress: Callable[[str, float], None]) -> None:
        """Encode the samples that are not in the cache yet. Raises MediaError if a file has changed meanwhile."""
        missing = self.missing(samples)
        if not missing:
            return
        largest = max((one.bucket for one in missing), key=lambda bucket: bucket.pixels)
        device, maker = torch.device(self.device), self._frame_maker()
        vae = self.files.vae(torch.float32, device)
        vae.chunk_frames = self._plan(largest).chunk_frames
        clip = None if self.row.clip is None else self.files.clip(self.dtype, device)
        for network in (vae, clip):
            if network is not None:
                self._prepared(network)
        with torch.inference_mode():
            for number, sample in enumerate(missing):
                progress("encoding clips", number / len(missing))
                tensors = self._sample(sample, vae, clip)
                checked = {
                    name: finite(f"encoding {sample.item.path.name}", one, REMEDY) for name, one in tensors.items()
                }
                write_tensors(sample_path(self.folder, sample.key), checked, maker)
        del vae, clip
        gc.collect()

    def _plan(self, bucket: Bucket) -> Plan:
        return plan(
            self.row, size=(bucket.width, bucket.height), frames=bucket.frames, device=self.device, dtype=self.dtype,
            free_bytes=free_memory(self.device),
        )  # fmt: skip

    def _prepared(self, network: nn.Module) -> None:
        if torch.device(self.device).type == "cpu":
            use_cpu_kernels(network)

    def _sample(self, sample: Sample, vae: VAE, clip: CLIPVision | None) -> dict[str, Tensor]:
        """The tensors of one sample, see `cache.Batch`."""
        item, frames = sample.item, sample.bucket.frames
        video = self._video(sample, item.path)
        tensors = {LATENTS: vae.encode(video)[0]}
        first, last = video[0, :, 0], video[0, :, -1]
        if frames > 1 and "image" in self.row.tasks:
            tensors[FIRST] = vae.encode(video_of(first, None, frames))[0]
        if frames > 1 and "first-last" in self.row.tasks:
            tensors[FIRST_LAST] = vae.encode(video_of(first, last, frames))[0]
        if clip is not None and self.row.clip is not None:
            seen = [first, last] if self.row.dit.image_tokens > 257 else [first]
            pixels = torch.cat([preprocess(one[None], self.row.clip.image_size) for one in seen])
            tensors[CLIP] = clip(pixels.to(self.dtype)).float()
        if item.weight is not None:
            weight = self._levels(sample, item.weight, exact=False)
            tensors[WEIGHT] = cell_means(weight, self.row.vae.stride)
        if self.row.dit.vace_layers:
            self._add_context(tensors, sample, video, vae)
        return tensors

    def _add_context(self, tensors: dict[str, Tensor], sample: Sample, video: Tensor, vae: VAE) -> None:
        """VACE's context, and the latents of references before those of the video."""
        item, bucket = sample.item, sample.bucket
        mask = video.new_ones(bucket.frames, bucket.height, bucket.width)
        if item.mask is not None:
            mask = (self._levels(sample, item.mask, exact=True) > 0.5).float()
        seen = torch.zeros_like(video)
        if item.control is not None:
            seen = self._video(sample, item.control)
        elif item.mask is not None:
            seen = video * (1 - mask)  # gray where it is new, or the context would give the answer away
        pictures = [from_pixels(next(iter(read_frames(path)))).to(self.device) for path in item.references]
        references = [letterbox(picture, bucket.width, bucket.height) for picture in pictures]
        context = vace_context(vae, seen, mask, references)[0]
        channels = 2 * self.row.vae.latent_channels
        tensors[VACE], tensors[VACE_MASK] = context[:channels], context[channels:].round().to(torch.uint8)
        if references:
            known = torch.cat([vae.encode(one[None, :, None])[0] for one in references], dim=1)
            tensors[LATENTS] = torch.cat([known, tensors[LATENTS]], dim=1)
            if WEIGHT in tensors:
                tensors[WEIGHT] = F.pad(tensors[WEIGHT], (0, 0, 0, 0, len(references), 0), value=1.0)

    def _video(self, sample: Sample, path: Path) -> Tensor:
        """The frames of one file of a sample, [1, 3, f, y, x] in [-1, 1]."""
        frames = np.stack(read_sample(sample, self.row, path))
        return normalize(rearrange(torch.from_numpy(frames), "f y x c -> 1 c f y x").to(self.device))

    def _levels(self, sample: Sample, path: Path, *, exact: bool) -> Tensor:
        """The brightness of the frames of a mask, [f, y, x] in [0, 1]."""
        frames: list[Frame] = read_sample(sample, self.row, path, exact=exact)
        return torch.from_numpy(np.stack([frame[:, :, 0] for frame in frames])).to(self.device).float() / 255


def cell_means(levels: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """The mean of levels [f, y, x] over each latent cell, [1, t, h, w]; the first frame has cells of its own."""
    whole = levels[None, None]
    cells = [F.avg_pool3d(whole[:, :, :1], (1, *stride[1:]))]
    if whole.shape[2] > 1:
        cells.append(F.avg_pool3d(whole[:, :, 1:], stride))
    return torch.cat(cells, dim=2)[0]


def sample_bytes(row: Model, bucket: Bucket) -> int:
    """About the size of a sample's file."""
    t, h, w = row.latent_shape(bucket.frames, (bucket.width, bucket.height))
    parts = 1 + ("image" in row.tasks) + ("first-last" in row.tasks) + 2 * bool(row.dit.vace_layers)
    size = 4 * row.vae.latent_channels * parts + (64 if row.dit.vace_layers else 0)
    clip = 0 if row.clip is None else 4 * row.dit.image_tokens * row.clip.width
    return t * h * w * size + clip + 4096
