"""The verbs that render training clips and train the networks of a small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lichtspiel.cli.common import Json, progress_bar

__all__ = ["render_clips", "train_dit", "train_vae"]

EditionName = Annotated[
    str | None, typer.Option(help="small (64x64, for processors) or large (128x128, for a GPU); small if not given.")
]
Start = Annotated[Path | None, typer.Option(help="Folder of weights that a recipe wrote, to begin from.")]


def render_clips(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the clips; made if it is not there.")],
    count: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip; the others follow.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "128x128",
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip; a clip is a two-second event.")] = 17,
    as_json: Json = False,
) -> None:
    """Render captioned training clips: sealed MP4 files and one captions.jsonl."""
    from lichtspiel.workflows.toybox_clips import export_clips

    with progress_bar() as progress:
        rows = export_clips(out, count=count, seed=seed, size=size, frames=frames, progress=progress)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for row in rows:
        print(f"{row['path']}  {row['captions']['en']}")


def train_vae(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    run: Annotated[Path, typer.Option(help="Folder of the run; an existing run goes on.")],
    minutes: Annotated[float | None, typer.Option(help="Time box.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of --minutes.")] = None,
    clips: Annotated[
        int | None, typer.Option(min=128, help="Clips to render, if none are; else the edition's.")
    ] = None,
    edition: EditionName = None,
    start: Start = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 1,
    as_json: Json = False,
) -> None:
    """Train nano's video VAE on rendered clips; resumes where it stopped."""
    from lichtspiel.train.nano.stages import Stage, vae_stage
    from lichtspiel.train.state import Budget

    budget = Budget(minutes=minutes, steps=steps)
    stage = Stage(budget=budget, edition=edition, start=start, device=device, seed=seed)
    scores = vae_stage(run, stage, clips=clips)
    _print_scores(scores, as_json)


def train_dit(
    run: Annotated[Path, typer.Option(help="Folder of the run, with a trained VAE; an existing run goes on.")],
    minutes: Annotated[float | None, typer.Option(help="Time box.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of --minutes.")] = None,
    start: Start = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 1,
    as_json: Json = False,
) -> None:
    """Train nano's text encoder and DiT on the latents of the run's VAE; resumes where it stopped."""
    from lichtspiel.train.nano.stages import Stage, dit_stage
    from lichtspiel.train.state import Budget

    budget = Budget(minutes=minutes, steps=steps)
    scores = dit_stage(run, Stage(budget=budget, start=start, device=device, seed=seed))
    _print_scores(scores, as_json)


def _print_scores(scores: dict[str, float], as_json: bool) -> None:
    print(json.dumps(scores) if as_json else "\n".join(f"{name:<24}{value:.4g}" for name, value in scores.items()))
