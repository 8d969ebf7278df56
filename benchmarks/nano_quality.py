"""How good nano's clips are: `python benchmarks/nano_quality.py [--count 96] [--languages] [--markdown]`.

Scenes whose combinations nano never trained on are generated from their captions, and a judge says attribute by
attribute whether the clip shows what was asked for. Beside ours stand chance (always naming the commonest value), the
judge on real renders of the same scenes, and the ceiling: the same renders after nano's own VAE, which no DiT on top
of it can beat. `--train-judge MINUTES` makes a new judge first.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lichtspiel.pipeline import Pipeline, load
from lichtspiel.request import Request
from lichtspiel.train.data import Frames, render_store
from lichtspiel.train.editions import SMALL
from lichtspiel.train.judge import (
    ATTRIBUTES,
    RELIABLE,
    Judge,
    JudgePlan,
    labels,
    load_judge,
    reconstruct_store,
    reconstructed,
    save_judge,
    train_judge,
    values,
    verdicts,
)
from lichtspiel.train.state import Budget
from lichtspiel.worlds.captions import LANGUAGES, Language, caption
from lichtspiel.worlds.render import render
from lichtspiel.worlds.sample import Vocabulary, is_held_out, sample
from lichtspiel.worlds.scene import Scene

WORLD, SHAPE = SMALL.world, SMALL.shape

FIRST_SEED = 20_000_000
TRAINING_SEEDS = range(30_000_000, 30_009_000)
TEST_SEEDS = range(29_000_000, 29_000_512)
SOFT_CLIPS = 600
"""So many of the judge's training clips also go through nano's VAE, because what it judges is soft."""

STATIC = 0.25
"""A clip with less than this share of the rendered clip's change from frame to frame counts as static."""

Marks = dict[str, np.ndarray]


@dataclass(frozen=True)
class Trial:
    """The scenes of one benchmark, their seeds, and their real renders uint8 [n, t, h, w, 3]."""

    scenes: Sequence[Scene]
    seeds: Sequence[int]
    renders: Frames

    @classmethod
    def draw(cls, vocabulary: Vocabulary, count: int) -> Trial:
        """Held-out scenes, the same for everybody."""
        seeds = range(FIRST_SEED, FIRST_SEED + count)
        scenes = [sample(seed, vocabulary, held_out=True) for seed in seeds]
        assert all(map(is_held_out, scenes))
        size = {"width": SHAPE.width, "height": SHAPE.height, "frames": SHAPE.frames}
        clips = [render(scene, seed, **size).frames for scene, seed in zip(scenes, seeds, strict=True)]
        return cls(scenes, seeds, np.stack(clips))


def generate(
    pipeline: Pipeline, trial: Trial, overrides: dict[str, Any], *, language: Language = "en", image: bool = False
) -> Frames:
    """One clip a scene from its plain caption, and with `image` from the render's first frame as well."""
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for scene, seed, rendered in zip(trial.scenes, trial.seeds, trial.renders, strict=True):
            path = Path(folder) / "first.png"
            Image.fromarray(rendered[0]).save(path)
            given: dict[str, Any] = {"prompt": caption(scene, language, 0), "seed": seed, "frames": len(rendered)}
            request = Request.of(image=path if image else None, **given, **overrides)
            *_, last = pipeline.denoise(pipeline.encode(request), request)
            clips.append(np.stack(list(pipeline.decode(last.latents))))
    return np.stack(clips)


def chance(scenes: Sequence[Scene], vocabulary: Vocabulary, name: str) -> float:
    """How often the commonest value is true, among the scenes in which the attribute can be seen."""
    truths = [truth[name] for truth in (labels(scene, vocabulary) for scene in scenes) if name in truth]
    return max(Counter(truths).values()) / len(truths) if truths else float("nan")


def all_right(marks: Marks) -> float:
    """The share of clips in which every attribute that can be seen is right."""
    return float(np.mean(np.nan_to_num(np.stack(list(marks.values())), nan=1.0).min(axis=0)))


def psnr(frames: Frames, reference: Frames) -> float:
    """Mean over pictures [n, h, w, 3] of the peak signal-to-noise ratio in decibels."""
    error = np.square((frames.astype(np.float64) - reference) / 255).mean(axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-10))))


def change(frames: Frames) -> np.ndarray:
    """Mean absolute difference between neighbouring frames of every clip, in levels of 255."""
    return np.array([np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() for clip in frames])


def motion(frames: Frames, trial: Trial) -> tuple[float, float]:
    """How much clips change against their renders, and the share of static ones where the prompt asks for movement."""
    made, real = change(frames), change(trial.renders)
    asked = np.array([scene.actors[0].action != "stand" for scene in trial.scenes])
    still = (made < STATIC * real)[asked]
    return float(made.mean() / real.mean()), float(still.mean()) if asked.any() else float("nan")


def percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


def attribute_rows(judge: Judge, trial: Trial, columns: dict[str, Frames]) -> list[list[str]]:
    """One row an attribute, and one for all of them: chance, then the share of right answers in every column."""
    names = judge.reliable
    marks = {title: verdicts(judge, frames, trial.scenes, names) for title, frames in columns.items()}
    rows = []
    for name in ATTRIBUTES:
        if name in names:
            seen = [m[name][~np.isnan(m[name])] for m in marks.values()]
            shares = [percent(float(s.mean()) if len(s) else float("nan")) for s in seen]
            rows.append([name, percent(chance(trial.scenes, judge.vocabulary, name)), *shares])
        elif name in judge.names:
            rows.append([name, f"not reliable ({percent(judge.measured.get(name, 0.0))})", *["–"] * len(columns)])
        else:
            rows.append([name, f"one value ({values(judge.vocabulary)[name][0]})", *["–"] * len(columns)])
    if names:
        rows.append(["all right", "–", *[percent(all_right(m)) for m in marks.values()]])
    return rows


def motion_rows(trial: Trial, columns: dict[str, Frames]) -> list[list[str]]:
    """Two rows: change from frame to frame against the renders, and static clips."""
    found = [motion(frames, trial) for frames in columns.values()]
    return [
        ["motion against renders", "–", *[f"{ratio:.2f}" for ratio, _ in found]],
        ["static where movement is asked", "–", *[percent(still) for _, still in found]],
    ]


def first_frame_row(trial: Trial, columns: dict[str, Frames], compared: Sequence[str]) -> list[str]:
    """One row: PSNR of the first frame against the given picture, in the columns that were given it."""
    given = trial.renders[:, 0]
    shown = [f"{psnr(frames[:, 0], given):.1f} dB" if title in compared else "–" for title, frames in columns.items()]
    return ["first frame against the picture", "–", *shown]


def table(head: list[str], rows: list[list[str]], markdown: bool) -> str:
    """Aligned columns, as Markdown or plain."""
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]
    left, right = ("| ", " |") if markdown else ("", "")
    lines = [
        left + (" | " if markdown else "  ").join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + right
        for row in [head, *rows]
    ]
    if markdown:
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(line.rstrip() for line in lines)


def report(judge: Judge, pipeline: Pipeline, options: argparse.Namespace) -> str:
    """The whole table."""
    names = ("guidance", "steps", "shift")
    overrides = {"model": pipeline.model.name, **{name: getattr(options, name) for name in names}}
    assert set(WORLD.subjects) <= set(judge.vocabulary.subjects), "the judge must know all that nano does"
    trial = Trial.draw(WORLD, options.count)
    columns = {"renders": trial.renders, "ceiling": reconstructed(pipeline.vae, trial.renders, str(pipeline.device))}
    for language in LANGUAGES if options.languages else LANGUAGES[:1]:
        title = f"text ({language})" if options.languages else "text"
        columns[title] = generate(pipeline, trial, overrides, language=language)
    columns["image"] = generate(pipeline, trial, overrides, image=True)
    rows = attribute_rows(judge, trial, columns)
    rows += motion_rows(trial, columns)
    rows.append(first_frame_row(trial, columns, ("ceiling", "image")))
    settings = Request.of(prompt="-", **overrides)
    lowest = min((judge.measured[name] for name in judge.reliable), default=float("nan"))
    return "\n".join([
        f"{datetime.date.today()}, {os.cpu_count()} cores, `{shlex.join(['python', *sys.argv])}`",
        f"{options.count} scenes of held-out combinations, one clip each; {settings.steps} steps, guidance "
        f"{settings.guidance:g}, shift {settings.shift:g}. The judge's weakest head is right about {percent(lowest)} "
        f"of {len(TEST_SEEDS)} renders it never saw; below {percent(RELIABLE)} a head is left out.",
        "",
        table(["", "chance", *columns], rows, options.markdown),
    ])  # fmt: skip


def make_judge(path: Path, minutes: float, folder: Path) -> Judge:
    """Render clips, soften some of them with nano's VAE, train a judge for so many minutes and write it to `path`."""
    workers = os.cpu_count() or 1
    store = render_store(folder / "clips", WORLD, TRAINING_SEEDS, SHAPE, held_out=None, workers=workers)
    test = render_store(folder / "test", WORLD, TEST_SEEDS, SHAPE, held_out=None, workers=workers)
    vae = load(Request.of(prompt="-", device="cpu")).vae
    soft = reconstruct_store(vae, store, folder / "soft", SOFT_CLIPS, "cpu")
    plan = JudgePlan(
        budget=Budget(minutes=minutes), batch=24, rates=(0.02, 0.002), decay_from=0.5, device="cpu", seed=1
    )
    judge = train_judge(plan, Judge(WORLD), store, test, folder / "judge", soft=soft)
    save_judge(judge, path)
    return judge


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=96, help="scenes")
    parser.add_argument("--judge", type=Path, default=Path(__file__).with_name("judge.safetensors"))
    parser.add_argument("--train-judge", type=float, metavar="MINUTES", help="first train a judge into --judge")
    parser.add_argument("--run", type=Path, default=Path("runs/judge"), help="folder for the judge's training")
    parser.add_argument("--weights", type=Path, help="folder of nano's weights, instead of those in the package")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--shift", type=float)
    parser.add_argument("--languages", action="store_true", help="text to video in every language")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a judge if asked to, then print the table."""
    options = parse(arguments)
    if options.train_judge is not None:
        judge = make_judge(options.judge, options.train_judge, options.run)
    else:
        judge = load_judge(options.judge)
    pipeline = load(Request.of(prompt="-", model="nano"), options.weights)
    with torch.inference_mode():
        print(report(judge, pipeline, options))


if __name__ == "__main__":
    main()
