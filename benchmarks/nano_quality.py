"""How good nano's clips are: `python benchmarks/nano_quality.py [--count 96] [--languages] [--variety 8]`.

Scenes whose combinations nano never trained on are generated from their captions, and a judge says attribute by
attribute whether the clip shows what was asked for. Beside ours stand chance (always naming the commonest value), the
judge on real renders of the same scenes, and the ceiling: the same renders after nano's own VAE, which no DiT on top
of it can beat. `--variety` also compares clips of one prompt with several seeds: a number near 0 means that they all
look alike. `--train-judge MINUTES` makes a new judge first. With `--clips FOLDER`, clips are kept as they are made, and
a run that was stopped goes on with them.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lichtspiel.inference.pipeline import Pipeline, load
from lichtspiel.request import Request
from lichtspiel.storage import atomic_write
from lichtspiel.toybox.captions import LANGUAGES, Language, caption
from lichtspiel.train.nano.clips import Frames
from lichtspiel.train.nano.judge import Judge, load_judge, reconstructed
from lichtspiel.train.nano.score import Trial, judge_of, judged_by, rows_of, table
from lichtspiel.train.nano.variants import STANDARD
from lichtspiel.train.nano.variety import SEEDS, rendered, variety
from lichtspiel.train.state import Budget

VARIANT = STANDARD
"""What ships, and is measured here; a run's own recipe measures that run."""


def generate(
    pipeline: Pipeline, trial: Trial, overrides: dict[str, Any], kept: Path | None, *, language: Language = "en",
    image: bool = False,
) -> Frames:  # fmt: skip
    """One clip a scene from its plain caption, and with `image` from the render's first frame as well.

    Clips that `kept`, a folder, already holds are read; those that are made are added to it.
    """
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for scene, seed, rendered in zip(trial.scenes, trial.seeds, trial.renders, strict=True):
            first = Path(folder) / "first.png"
            Image.fromarray(rendered[0]).save(first)
            given: dict[str, Any] = {"prompt": caption(scene, language, 0), "seed": seed, "frames": len(rendered)}
            request = Request.of(image=first if image else None, **given, **overrides)
            name = hashlib.sha256(f"{rendered[0].tobytes() if image else b''!r} {given} {overrides}".encode())
            path = None if kept is None else kept / f"{name.hexdigest()[:24]}.npz"
            if path is not None and path.exists():
                clips.append(np.load(path)["clip"])
                continue
            *_, last = pipeline.denoise(pipeline.encode(request), request)
            clips.append(np.stack(list(pipeline.decode(last.latents))))
            if path is not None:
                with atomic_write(path) as draft, draft.open("wb") as file:
                    np.savez(file, clip=clips[-1])
    return np.stack(clips)


def differing(
    pipeline: Pipeline, trial: Trial, overrides: dict[str, Any], prompts: int, kept: Path | None
) -> str:  # fmt: skip
    """How much the seeds of a prompt differ against renders of its scene, in a sentence."""
    real = [rendered(scene, range(SEEDS), VARIANT.shape) for scene in trial.scenes[:prompts]]
    made = []
    for scene, renders in zip(trial.scenes, real, strict=False):
        repeated = Trial([scene] * SEEDS, range(SEEDS), renders)
        made.append(generate(pipeline, repeated, overrides, kept))
    vae = pipeline.checkpoint.vae(torch.float32, pipeline.device)
    found = variety(vae, made, real)
    return f"Clips of one prompt with {SEEDS} seeds differ {found:.2f} times as much as renders ({len(made)} prompts)."


def report(judge: Judge, pipeline: Pipeline, options: argparse.Namespace) -> str:
    """The whole table."""
    names = ("guidance", "steps", "shift")
    overrides = {"model": pipeline.model.name, **{name: getattr(options, name) for name in names}}
    assert set(VARIANT.world.subjects) <= set(judge.vocabulary.subjects), "the judge must know all that nano does"
    if options.clips is not None:
        options.clips.mkdir(parents=True, exist_ok=True)
    trial = Trial.draw(VARIANT.world, VARIANT.shape, options.count)
    vae = pipeline.checkpoint.vae(torch.float32, pipeline.device)
    columns = {}
    for language in LANGUAGES if options.languages else LANGUAGES[:1]:
        title = f"text ({language})" if options.languages else "text"
        columns[title] = generate(pipeline, trial, overrides, options.clips, language=language)
    columns["image"] = generate(pipeline, trial, overrides, options.clips, image=True)
    ceiling = reconstructed(vae, trial.renders, str(pipeline.device))  # takes longest, and is nothing to go on with
    columns = {"renders": trial.renders, "ceiling": ceiling, **columns}
    settings = Request.of(prompt="-", **overrides)
    seeds = ["", differing(pipeline, trial, overrides, options.variety, options.clips)] if options.variety else []
    return "\n".join([
        f"{datetime.date.today()}, {os.cpu_count()} cores, `{shlex.join(['python', *sys.argv])}`",
        f"{options.count} scenes of held-out combinations, one clip each; {settings.steps} steps, guidance "
        f"{settings.guidance:g}, shift {settings.shift:g}. {judged_by(judge)}",
        "",
        table(["", "chance", *columns], rows_of(judge, trial, columns), options.markdown),
        *seeds,
    ])  # fmt: skip


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
    parser.add_argument("--variety", type=int, default=0, metavar="PROMPTS", help="compare the seeds of some prompts")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="keep clips of these weights, or go on with them")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a judge if asked to, then print the table."""
    options = parse(arguments)
    if options.train_judge is not None:
        vae = load(Request.of(prompt="-", device="cpu")).checkpoint.vae(torch.float32, torch.device("cpu"))
        judge = judge_of(VARIANT, vae, Budget(minutes=options.train_judge), options.run, "cpu")
        shutil.copyfile(options.run / "judge.safetensors", options.judge)
    else:
        judge = load_judge(options.judge)
    pipeline = load(Request.of(prompt="-", model="nano"), options.weights)
    with torch.inference_mode():
        print(report(judge, pipeline, options))


if __name__ == "__main__":
    main()
