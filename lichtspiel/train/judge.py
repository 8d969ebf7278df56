"""A judge: one small network that says what a clip shows, attribute by attribute, so that generated clips can be scored.

It looks at pixels alone and never at the prompt. A head may judge only if it is right about at least `RELIABLE` of real
renders it never saw; the others are reported and left out. It does not know how a clip was made.

Two things a picture gives away are taken from it, because they would let a still picture pass for a moving one: clips
run backwards and frozen clips are in its training, so direction and action are judged by movement and not by which way
a subject faces.

Letters: b batch, c channels, t time, h height, w width.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lichtspiel.errors import InvalidInput, WeightsError
from lichtspiel.models.vae import VAE
from lichtspiel.train.data import ClipStore, Frames, open_store
from lichtspiel.train.optim import split
from lichtspiel.train.state import Budget, Run
from lichtspiel.train.vae import pixels
from lichtspiel.worlds.sample import Vocabulary
from lichtspiel.worlds.scene import INDOORS, MOVING, Scene

__all__ = [
    "ATTRIBUTES",
    "RELIABLE",
    "Judge",
    "JudgePlan",
    "accuracy",
    "labels",
    "load_judge",
    "reconstruct_store",
    "save_judge",
    "train_judge",
    "values",
    "verdicts",
]

ATTRIBUTES = ("subject", "size", "action", "direction", "place", "time", "weather", "camera")

RELIABLE = 0.97
"""The share of held-out real renders a head must name correctly before it may judge."""

GRID = 8
"""Rows and columns of the map of features from which a frame's layout is read."""

MIRRORED = {"left": "right", "right": "left", "pan-left": "pan-right", "pan-right": "pan-left"}
"""What a value turns into when the clip is mirrored."""

REVERSED = MIRRORED | {
    "grow": "shrink", "shrink": "grow", "zoom-in": "zoom-out", "zoom-out": "zoom-in", "fall": "",
}  # fmt: skip
"""What a value turns into when the clip runs backwards; nothing has a name for falling up."""

FROZEN = {"left": "none", "right": "none", "zoom-in": "still", "zoom-out": "still"} | {
    "pan-left": "still", "pan-right": "still", **dict.fromkeys(("walk", "hop", "drive", "bounce"), "stand"),
    **dict.fromkeys(("fly", "swim", "sail", "spin", "fall", "grow", "shrink"), ""),
}  # fmt: skip
"""What a value turns into when the clip is one picture; a bird that hangs in the air does nothing that has a name."""

UNKNOWN = -100
"""The target that the loss ignores: the attribute cannot be seen in this clip, or has no name for what it shows."""


def values(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    """The values of every attribute; one with a single value is no question and gets no head."""
    moving = [action in MOVING for action in vocabulary.actions]
    directions = (("left", "right") if any(moving) else ()) + (() if all(moving) else ("none",))
    return {
        "subject": vocabulary.subjects,
        "size": vocabulary.sizes,
        "action": vocabulary.actions,
        "direction": directions,
        "place": vocabulary.places,
        "time": vocabulary.times,
        "weather": vocabulary.weathers,
        "camera": vocabulary.cameras,
    }


def labels(scene: Scene, vocabulary: Vocabulary) -> dict[str, str]:
    """What is true of a scene with one actor, for every attribute that is a question and can be seen.

    Indoors and under water there is neither time of day nor weather.
    """
    assert len(scene.actors) == 1, "the judge knows scenes with one actor"
    actor = scene.actors[0]
    truth: dict[str, str] = {"subject": actor.subject, "size": actor.size, "action": actor.action}
    truth |= {"direction": actor.direction, "place": scene.place, "camera": scene.camera}
    if scene.place not in INDOORS:
        truth |= {"time": scene.time, "weather": scene.weather}
    questions = values(vocabulary)
    return {name: truth[name] for name in ATTRIBUTES if name in truth and len(questions[name]) > 1}


class Judge(nn.Module):
    """Logits for every attribute of a vocabulary that has more than one value.

    Each frame goes through strided convolutions and becomes one vector, of what is seen and where; convolutions over
    time then look at how the vectors change. `measured` is each head's share of correct answers on held-out renders.
    Raises InvalidInput for a vocabulary with two actors, because a question would have two answers.
    """

    def __init__(self, vocabulary: Vocabulary, width: int = 32) -> None:
        super().__init__()
        if vocabulary.pairs:
            raise InvalidInput("a judge knows scenes with one actor; give it a vocabulary with pairs=False")
        self.vocabulary, self.width = vocabulary, width
        self.measured: dict[str, float] = {}
        self.embedding = nn.Conv2d(12, width, 3, stride=2, padding=1)
        self.convolutions = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.where = nn.Conv2d(4 * width, width // 2, 1)
        self.frame = nn.Linear(8 * width + width // 2 * GRID**2, 4 * width)
        self.over_time = nn.ModuleList(nn.Conv1d(4 * width, 4 * width, 3, padding=1) for _ in range(2))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(8 * width, len(kinds)) for name, kinds in values(vocabulary).items() if len(kinds) > 1}
        )

    @property
    def reliable(self) -> tuple[str, ...]:
        """The attributes this judge may judge."""
        return tuple(name for name in self.heads if self.measured.get(name, 0.0) >= RELIABLE)

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Logits [b, values] for every attribute, of clips [b, 3, t, h, w] in [-1, 1]."""
        length = video.shape[2]
        x = F.pixel_unshuffle(rearrange(video, "b c t h w -> (b t) c h w"), 2)
        x = self.embedding(x.contiguous(memory_format=torch.channels_last)).relu()
        x = self.convolutions(x)
        where = F.adaptive_avg_pool2d(self.where(x), GRID).flatten(1)
        seen = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3)), where], dim=1)
        x = rearrange(self.frame(seen), "(b t) c -> b c t", t=length)
        for convolution in self.over_time:
            x = x + convolution(x.relu())
        x = F.normalize(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1), dim=1) * x.shape[1] ** 0.5
        return {name: head(x) for name, head in self.heads.items()}
