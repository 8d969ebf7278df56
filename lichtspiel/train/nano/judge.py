"""A judge: a small network that names what a clip shows, attribute by attribute, to score generated clips.

It looks only at pixels, never at the prompt, and does not know how a clip was made. A head counts only if it is right
on at least `RELIABLE` of held-out real renders; the others are reported and left out.

Its training includes reversed and frozen clips, so that it judges direction and action by movement and not by which way
a subject faces. Otherwise a still picture could pass for a moving one.

Letters: b batch, c channels, t time, h height, w width.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
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
from lichtspiel.storage import atomic_folder, atomic_write
from lichtspiel.toybox.sample import Vocabulary
from lichtspiel.toybox.scene import INDOORS, MOVING, Scene
from lichtspiel.train.data import Frames
from lichtspiel.train.nano.clips import ClipStore, open_store
from lichtspiel.train.optim import OptimizerFactory
from lichtspiel.train.state import Budget, Logger, Run
from lichtspiel.train.vae import frames_of, pixels

__all__ = [
    "ATTRIBUTES",
    "RELIABLE",
    "Judge",
    "JudgePlan",
    "accuracy",
    "answers",
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
"""The fraction of held-out real renders that a head must get right before it counts."""

STRIDE = 2
"""The judge sees every second frame: the fastest movement that matters, a hop, still spans three of them."""

SIDE = 64
"""Pixels of the side to which larger frames are reduced: enough to tell everything apart, at a quarter of the work of
128."""

GRID = 8
"""Rows and columns of the feature map from which a frame's layout is read."""

Changes = dict[str, str]

MIRRORED: Changes = {"left": "right", "right": "left", "pan-left": "pan-right", "pan-right": "pan-left"}
"""What a value turns into when the clip is mirrored."""

REVERSED: Changes = MIRRORED | {
    "grow": "shrink", "shrink": "grow", "zoom-in": "zoom-out", "zoom-out": "zoom-in", "fall": "",
}  # fmt: skip
"""What a value turns into when the clip runs backwards; there is no name for falling up."""

FROZEN: Changes = {"left": "none", "right": "none", "zoom-in": "still", "zoom-out": "still"} | {
    "pan-left": "still", "pan-right": "still", **dict.fromkeys(("walk", "hop", "drive", "bounce"), "stand"),
    **dict.fromkeys(("fly", "swim", "sail", "spin", "fall", "grow", "shrink"), ""),
}  # fmt: skip
"""What a value turns into when the clip is frozen; there is no name for what a bird does that hangs in the air."""

MANNERS = (0.7, 0.2, 0.1)
"""Fractions of training clips that run forward, backward and not at all."""

UNKNOWN = -100
"""The target that the loss ignores: the attribute is not visible in this clip, or there is no name for its value."""


def values(vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    """The values of every attribute; an attribute with a single value gets no head."""
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
    """The labels of a scene with one actor: its value of every visible attribute that has more than one.

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
    """Logits for every attribute of a vocabulary that has more than one value, from every `STRIDE`-th frame of a clip.

    Strided convolutions turn each frame into one vector, of what is visible and where; convolutions over time then see
    how these vectors change. `measured` is each head's accuracy on held-out renders. Raises InvalidInput for a
    vocabulary with two actors, because an attribute would then have two values.
    """

    def __init__(self, vocabulary: Vocabulary, width: int = 24) -> None:
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
    def names(self) -> tuple[str, ...]:
        """The attributes that have a head."""
        return tuple(self.heads)

    @property
    def reliable(self) -> tuple[str, ...]:
        """The attributes whose heads are accurate enough to count."""
        return tuple(name for name in self.names if self.measured.get(name, 0.0) >= RELIABLE)

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Logits [b, values] for every attribute, of clips [b, 3, t, h, w] in [-1, 1]."""
        length = video.shape[2]
        x = rearrange(video, "b c t h w -> (b t) c h w")
        if min(x.shape[-2:]) > SIDE:
            x = F.interpolate(x, size=(SIDE, SIDE), mode="area")
        x = F.pixel_unshuffle(x, 2)
        x = self.embedding(x.contiguous(memory_format=torch.channels_last)).relu()
        x = self.convolutions(x)
        where = F.adaptive_avg_pool2d(self.where(x), GRID).flatten(1)
        features = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3)), where], dim=1)
        x = rearrange(self.frame(features), "(b t) c -> b c t", t=length)
        for convolution in self.over_time:
            x = x + convolution(x.relu())
        x = F.normalize(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1), dim=1) * x.shape[1] ** 0.5
        return {name: head(x) for name, head in self.heads.items()}


def save_judge(judge: Judge, path: Path) -> None:
    """Write one safetensors file in half precision; its metadata holds the vocabulary and the measured accuracies."""
    metadata = {"vocabulary": asdict(judge.vocabulary), "measured": judge.measured, "width": judge.width}
    with atomic_write(path) as draft:
        save_file(
            {name: value.half().contiguous() for name, value in judge.state_dict().items()},
            draft,
            {name: json.dumps(value) for name, value in metadata.items()},
        )


def load_judge(path: Path) -> Judge:
    """Read a judge; raises WeightsError when there is no file at `path` or it is not a judge."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in metadata["vocabulary"].items()
        }
        vocabulary = Vocabulary(**fields)
        judge = Judge(vocabulary, metadata["width"])
        judge.load_state_dict(tensors, strict=True)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path} holds no judge; make one with benchmarks/nano_quality.py --train-judge") from error
    judge.measured = metadata["measured"]
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def answers(judge: Judge, frames: Frames, batch: int = 16) -> dict[str, list[str]]:
    """What the judge sees in clips uint8 [n, t, h, w, 3]: for every head, one value per clip."""
    device = str(next(judge.parameters()).device)
    answered: dict[str, list[str]] = {name: [] for name in judge.names}
    questions = values(judge.vocabulary)
    for begin in range(0, len(frames), batch):
        logits = judge(pixels(np.array(frames[begin : begin + batch, ::STRIDE]), device))
        for name, rows in logits.items():
            answered[name] += [questions[name][index] for index in rows.argmax(dim=1).tolist()]
    return answered


def verdicts(
    judge: Judge, frames: Frames, scenes: Sequence[Scene], names: Collection[str]
) -> dict[str, NDArray[np.float64]]:
    """For every attribute in `names` and every clip: 1 if the judge agrees with the scene, 0 if it does not, and NaN
    if the attribute is not visible in the scene."""
    truths = [labels(scene, judge.vocabulary) for scene in scenes]
    answered = answers(judge, frames)
    marks = {}
    for name in names:
        pairs = zip(answered[name], truths, strict=True)
        marks[name] = np.array([float(answer == truth[name]) if name in truth else np.nan for answer, truth in pairs])
    return marks


def accuracy(judge: Judge, frames: Frames, scenes: Sequence[Scene], names: Collection[str]) -> dict[str, float]:
    """The accuracy on every attribute in `names`; those that are visible in no clip are left out."""
    marks = verdicts(judge, frames, scenes, names)
    return {name: float(np.nanmean(mark)) for name, mark in marks.items() if not np.isnan(mark).all()}


@dataclass(frozen=True, kw_only=True)
class JudgePlan:
    """Settings of a judge's run; the learning rate falls to zero after the fraction `decay_from` of the run."""

    budget: Budget
    batch: int
    optimizer: OptimizerFactory
    decay_from: float
    device: str
    seed: int


def train_judge(
    plan: JudgePlan,
    judge: Judge,
    store: ClipStore,
    held_out: ClipStore,
    folder: Path,
    *,
    soft: ClipStore | None = None,
    log: Logger = print,
) -> Judge:
    """Train `judge` until the budget is spent, resuming from `folder`; returns the average, measured on `held_out`.

    With `soft`, a store of clips that went through a VAE, every second clip comes from there.
    """
    judge = judge.to(plan.device).train().requires_grad_(True)
    for module in judge.modules():
        if isinstance(module, nn.Conv2d):  # the order that CPUs read fastest
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    run = Run({"judge": judge}, plan.optimizer({"judge": judge}), plan.budget, folder, plan.seed)
    run.resume()
    averaged = run.averages["judge"]
    assert isinstance(averaged, Judge)
    for step in run.steps():
        video, targets = draw(judge.vocabulary, (store,) if soft is None else (store, soft), plan, run.generator())
        loss = judge_loss(judge(video), targets)
        run.backward(loss)
        run.update(decay_from=plan.decay_from)
        if step % 100 == 0:
            scores = accuracy(averaged, held_out.frames[:96], held_out.scenes[:96], averaged.names)
            state = {"step": step, "progress": run.progress, "loss": float(loss.detach())}
            log({**state, "seconds/step": run.seconds / max(step, 1), **scores})
    averaged.measured = accuracy(averaged, held_out.frames, held_out.scenes, averaged.names)
    log({"step": run.step, "progress": 1.0, **averaged.measured})
    return averaged


def judge_loss(logits: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """The sum over all heads of the mean cross-entropy over the clips in which the attribute is visible."""
    total = torch.zeros(())
    for name, target in targets.items():
        loss = F.cross_entropy(logits[name], target, ignore_index=UNKNOWN, reduction="sum")
        total = total.to(loss) + loss / (target != UNKNOWN).sum().clamp(min=1)
    return total


def draw(
    vocabulary: Vocabulary, stores: Sequence[ClipStore], plan: JudgePlan, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch of augmented clips [b, 3, t, h, w], and for every attribute the index of its value, or UNKNOWN."""
    clips, truths = [], []
    for _ in range(plan.batch):
        frames, truth = _draw_clip(vocabulary, stores, generator)
        clips.append(frames)
        truths.append(truth)
    targets = {}
    for name, kinds in values(vocabulary).items():
        if len(kinds) > 1:
            indices = [kinds.index(truth[name]) if truth.get(name) in kinds else UNKNOWN for truth in truths]
            targets[name] = torch.tensor(indices, device=plan.device)
    return disturb(pixels(np.stack(clips), plan.device), generator), targets


def _draw_clip(
    vocabulary: Vocabulary, stores: Sequence[ClipStore], generator: torch.Generator
) -> tuple[Frames, dict[str, str]]:
    """A random clip, possibly mirrored, reversed or frozen, and the labels that it then has."""
    store = stores[int(torch.randint(len(stores), (), generator=generator))]
    clip = int(torch.randint(len(store), (), generator=generator))
    frames, truth = np.asarray(store.frames[clip, ::STRIDE]), labels(store.scenes[clip], vocabulary)
    if torch.rand((), generator=generator) < 0.5:
        frames, truth = frames[:, :, ::-1], changed(truth, MIRRORED)
    manner = int(torch.multinomial(torch.tensor(MANNERS), 1, generator=generator))
    if manner == 1:
        return frames[::-1], changed(truth, REVERSED)
    if manner == 2:
        return np.repeat(frames[len(frames) // 2][None], len(frames), axis=0), changed(truth, FROZEN)
    return frames, truth


def changed(truth: dict[str, str], change: Changes) -> dict[str, str]:
    """The labels of a clip after mirroring, reversing or freezing."""
    moved = ("action", "direction", "camera")
    return {name: change.get(value, value) if name in moved else value for name, value in truth.items()}


def disturb(video: Tensor, generator: torch.Generator) -> Tensor:
    """Change every clip [b, 3, t, h, w] by mild random blur, brightness, contrast and noise."""
    shape = (len(video), 1, 1, 1, 1)
    blur, contrast, light, grain = torch.rand(4, *shape, generator=generator).to(video)
    kernel = torch.tensor([1.0, 2.0, 1.0]).to(video) / 4
    frames = rearrange(video, "b c t h w -> (b c) t h w")
    weight = (kernel[:, None] * kernel).expand(frames.shape[1], 1, 3, 3)
    soft = F.conv2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), weight, groups=frames.shape[1])
    soft = rearrange(soft, "(b c) t h w -> b c t h w", b=len(video))
    video = torch.lerp(video, soft, blur) * (0.9 + 0.2 * contrast) + 0.1 * (light - 0.5)
    noise: Tensor = 0.08 * grain * torch.randn(video.shape, generator=generator).to(video)
    return (video + noise).clamp(-1, 1)


def reconstruct_store(vae: VAE, store: ClipStore, folder: Path, count: int, device: str) -> ClipStore:
    """Send the first `count` clips of a store through a VAE into `folder`; an existing store is opened as it is."""
    if (folder / "scenes.jsonl").is_file():
        return open_store(folder)
    with atomic_folder(folder) as draft:
        np.save(draft / "frames.npy", reconstructed(vae, store.frames[:count], device))
        np.save(draft / "masks.npy", store.masks[:count])
        lines = [json.dumps(asdict(scene)) for scene in store.scenes[:count]]
        (draft / "scenes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_store(folder)


@torch.no_grad()
def reconstructed(vae: VAE, frames: Frames, device: str) -> Frames:
    """Clips uint8 [n, t, h, w, 3] as a VAE reconstructs them."""
    result = np.empty(frames.shape, np.uint8)
    for begin in range(0, len(frames), 4):  # a batch of one takes torch's slow 3-D convolution
        video = pixels(np.array(frames[begin : begin + 4]), device)
        result[begin : begin + 4] = frames_of(vae.reconstruct(vae.moments(video)[0]))
    return result
