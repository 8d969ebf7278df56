"""How good a run's clips are, in numbers: held-out scenes are generated from their captions, and a judge names them.

The table compares generated clips with chance (always naming the most common value), with the judge on real renders of
the same scenes, and with the ceiling: the same renders after the VAE, which no DiT on top of it can beat. Does not know
where clips come from: the columns of a table are arrays of frames.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lichtspiel.models.vae import VAE
from lichtspiel.toybox.captions import caption
from lichtspiel.toybox.render import render
from lichtspiel.toybox.sample import Vocabulary, is_held_out, sample
from lichtspiel.toybox.scene import Scene
from lichtspiel.train.data import Frames, Shape
from lichtspiel.train.dit import conditioned
from lichtspiel.train.latents import LatentStore, first_frame_latents
from lichtspiel.train.nano.clips import render_store
from lichtspiel.train.nano.judge import (
    ATTRIBUTES,
    RELIABLE,
    Judge,
    JudgePlan,
    labels,
    reconstruct_store,
    reconstructed,
    save_judge,
    train_judge,
    values,
    verdicts,
)
from lichtspiel.train.nano.samples import Sampler, decoded
from lichtspiel.train.nano.variants import Variant
from lichtspiel.train.optim import muon_adamw
from lichtspiel.train.state import Budget

__all__ = [
    "Trial",
    "all_right",
    "attribute_rows",
    "chance",
    "generated",
    "judge_of",
    "motion",
    "rows_of",
    "table",
]

FIRST_SEED = 20_000_000
TRAINING_SEEDS = range(30_000_000, 30_009_000)
TEST_SEEDS = range(29_000_000, 29_000_512)
SOFT_CLIPS = 600
"""How many of the judge's training clips also go through the VAE, because the clips that it judges are soft."""

STATIC = 0.25
"""A clip whose change between frames is below this fraction of the rendered clip's counts as static."""

Marks = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Trial:
    """The scenes of one measurement, their seeds, and their real renders uint8 [n, t, h, w, 3]."""

    scenes: Sequence[Scene]
    seeds: Sequence[int]
    renders: Frames

    @classmethod
    def draw(cls, vocabulary: Vocabulary, shape: Shape, count: int) -> Trial:
        """Held-out scenes, the same for every run."""
        seeds = range(FIRST_SEED, FIRST_SEED + count)
        scenes = [sample(seed, vocabulary, held_out=True) for seed in seeds]
        assert all(map(is_held_out, scenes))
        size = {"width": shape.width, "height": shape.height, "frames": shape.frames}
        clips = [render(scene, seed, **size).frames for scene, seed in zip(scenes, seeds, strict=True)]
        return cls(scenes, seeds, np.stack(clips))


def judge_of(variant: Variant, vae: VAE, budget: Budget, folder: Path, device: str) -> Judge:
    """A judge for a variant's world, trained in `folder` on its own clips; resumes a judge that was started there.

    Some of the clips go through `vae`, whose statistics are neutral or its own.
    """
    workers = os.cpu_count() or 1
    folder.mkdir(parents=True, exist_ok=True)
    store = render_store(folder / "clips", variant.world, TRAINING_SEEDS, variant.shape, held_out=None, workers=workers)
    test = render_store(folder / "test", variant.world, TEST_SEEDS, variant.shape, held_out=None, workers=workers)
    soft = reconstruct_store(vae, store, folder / "soft", min(SOFT_CLIPS, len(store)), device)
    plan = JudgePlan(
        budget=budget,
        batch=24,
        optimizer=partial(muon_adamw, learning_rates=(0.02, 0.002)),
        decay_from=0.5,
        device=device,
        seed=1,
    )
    judge = train_judge(plan, Judge(variant.world), store, test, folder, soft=soft)
    save_judge(judge, folder / "judge.safetensors")
    return judge


@torch.no_grad()
def generated(sampler: Sampler, vae: VAE, cached: LatentStore, trial: Trial, device: str) -> dict[str, Frames]:
    """The columns of a run's table: the renders, the ceiling, and clips from text alone and from a first frame."""
    text: list[Frames] = []
    image: list[Frames] = []
    prompts = [caption(scene, "en", 0) for scene in trial.scenes]
    shape = tuple(cached.latents.shape[1:])
    for begin in range(0, len(prompts), BATCH):
        part = slice(begin, begin + BATCH)
        firsts = first_frame_latents(vae, trial.renders[part], cached, device)
        pictures = torch.stack([conditioned(one, one.shape[1], 1, cached.stride) for one in firsts])
        for image_conditions, clips in ((None, text), (pictures, image)):
            latents = sampler.generate(prompts[part], shape, device, image_conditions=image_conditions, seed=begin)
            clips.append(decoded(vae, latents, cached.mean, cached.std))
    ceiling = reconstructed(vae, trial.renders, device)
    return {
        "renders": trial.renders, "ceiling": ceiling, "text": np.concatenate(text), "image": np.concatenate(image),
    }  # fmt: skip


BATCH = 16
"""Clips generated at once."""


def rows_of(judge: Judge, trial: Trial, columns: dict[str, Frames]) -> list[list[str]]:
    """The whole table: attributes, motion, and how well the first frame matches the given picture, if there is one."""
    compared = [title for title in columns if title in {"ceiling", "image"}]
    rows = attribute_rows(judge, trial, columns) + motion_rows(trial, columns)
    return [*rows, first_frame_row(trial, columns, compared)]


def chance(scenes: Sequence[Scene], vocabulary: Vocabulary, name: str) -> float:
    """How often the most common value is right, among the scenes in which the attribute is visible."""
    truths = [truth[name] for truth in (labels(scene, vocabulary) for scene in scenes) if name in truth]
    return max(Counter(truths).values()) / len(truths) if truths else float("nan")


def all_right(marks: Marks) -> float:
    """The share of clips in which every visible attribute is right."""
    return float(np.mean(np.nan_to_num(np.stack(list(marks.values())), nan=1.0).min(axis=0)))


def psnr(frames: Frames, reference: Frames) -> float:
    """Mean over pictures [n, h, w, 3] of the peak signal-to-noise ratio in decibels."""
    error = np.square((frames.astype(np.float64) - reference) / 255).mean(axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-10))))


def change(frames: Frames) -> NDArray[np.float64]:
    """Mean absolute difference between neighboring frames of every clip, in levels of 255."""
    return np.array([np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() for clip in frames])


def motion(frames: Frames, trial: Trial) -> tuple[float, float]:
    """How much clips change relative to their renders, and how many are static though the prompt asks for movement."""
    changes, real = change(frames), change(trial.renders)
    moving = np.array([scene.actors[0].action != "stand" for scene in trial.scenes])
    still = (changes < STATIC * real)[moving]
    return float(changes.mean() / real.mean()), float(still.mean()) if moving.any() else float("nan")


def percent(share: float) -> str:
    """A share in the form that a table shows; a dash if there is none."""
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


def attribute_rows(judge: Judge, trial: Trial, columns: dict[str, Frames]) -> list[list[str]]:
    """One row per attribute, and one for all of them: chance, then the share of correct clips in every column."""
    names = judge.reliable
    marks = {title: verdicts(judge, frames, trial.scenes, names) for title, frames in columns.items()}
    rows = []
    for name in ATTRIBUTES:
        if name in names:
            answers = [m[name][~np.isnan(m[name])] for m in marks.values()]
            shares = [percent(float(s.mean()) if len(s) else float("nan")) for s in answers]
            rows.append([name, percent(chance(trial.scenes, judge.vocabulary, name)), *shares])
        elif name in judge.names:
            rows.append([name, f"not reliable ({percent(judge.measured.get(name, 0.0))})", *["–"] * len(columns)])
        else:
            rows.append([name, f"one value ({values(judge.vocabulary)[name][0]})", *["–"] * len(columns)])
    if names:
        rows.append(["all right", "–", *[percent(all_right(m)) for m in marks.values()]])
    return rows


def motion_rows(trial: Trial, columns: dict[str, Frames]) -> list[list[str]]:
    """Two rows: change between frames relative to the renders, and static clips."""
    motions = [motion(frames, trial) for frames in columns.values()]
    return [
        ["motion against renders", "–", *[f"{ratio:.2f}" for ratio, _ in motions]],
        ["static where movement is asked", "–", *[percent(still) for _, still in motions]],
    ]


def first_frame_row(trial: Trial, columns: dict[str, Frames], compared: Sequence[str]) -> list[str]:
    """One row: PSNR of the first frame against the given picture, in the columns that were conditioned on it."""
    first_frames = trial.renders[:, 0]
    shown = [
        f"{psnr(frames[:, 0], first_frames):.1f} dB" if title in compared else "–" for title, frames in columns.items()
    ]
    return ["first frame against the picture", "–", *shown]


def judged_by(judge: Judge) -> str:
    """A sentence on how far the judge can be trusted."""
    lowest = min((judge.measured[name] for name in judge.reliable), default=float("nan"))
    return (
        f"The judge's weakest head is right about {percent(lowest)} of {len(TEST_SEEDS)} renders it never saw; below "
        f"{percent(RELIABLE)} a head is left out."
    )


def table(head: list[str], rows: list[list[str]], markdown: bool) -> str:
    """The rows as aligned columns, in Markdown or plain text."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in [head, *rows]:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        line = f"| {' | '.join(cells)} |" if markdown else "  ".join(cells)
        lines.append(line.rstrip())
    if markdown:
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
