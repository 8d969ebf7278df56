"""The verbs that render training clips and train the networks of a small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lichtspiel.cli.common import Json, out_option, progress_bar

__all__ = ["render_clips", "train_dit", "train_vae"]

EditionName = Annotated[
    str | None,
    typer.Option(
        metavar="small|large", help="Size of nano: 64x64, for processors, or 128x128. [default: small]"
    ),
]  # fmt: skip
Start = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Weights to start from, as a recipe wrote them.")]
Run = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the run; an existing run is continued.")]
Minutes = Annotated[float | None, typer.Option(metavar="MINUTES", help="How long to train.")]
Steps = Annotated[int | None, typer.Option(metavar="NUMBER", help="Optimizer steps, instead of --minutes.")]
Device = Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to train.")]
Seed = Annotated[int, typer.Option(metavar="NUMBER", help="Seed of the run.")]


def render_clips(
    out: Annotated[Path, out_option("Folder for the clips.")],
    count: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Number of clips.")] = 8,
    seed: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Seed of the first clip; the others follow.")] = 0,
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Width and height in pixels.")] = "128x128",
    frames: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Frames per clip of two seconds.")] = 17,
    as_json: Json = False,
) -> None:
    """Render captioned clips of toys, to train on.

    Writes sealed MP4 files, and captions in English, German and Chinese in captions.jsonl.
    """
    from lichtspiel.workflows.toybox_clips import export_clips

    with progress_bar() as progress:
        rows = export_clips(out, count=count, seed=seed, size=size, frames=frames, progress=progress)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for row in rows:
        print(f"{row['path']}  {row['captions']['en']}")


def train_vae(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    run: Run,
    minutes: Minutes = None,
    steps: Steps = None,
    clips: Annotated[
        int | None,
        typer.Option(
            min=128, metavar="NUMBER", help="Clips to render first, at least 128. [default: as the edition says]"
        ),
    ] = None,
    edition: EditionName = None,
    start: Start = None,
    device: Device = "cpu",
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Train nano's video VAE on rendered clips.

    Continues an existing run where it stopped.
    """
    from lichtspiel.train.nano.stages import Stage, vae_stage
    from lichtspiel.train.state import Budget

    budget = Budget(minutes=minutes, steps=steps)
    stage = Stage(budget=budget, edition=edition, start=start, device=device, seed=seed)
    scores = vae_stage(run, stage, clips=clips)
    _print_scores(scores, as_json)


def train_dit(
    run: Run,
    minutes: Minutes = None,
    steps: Steps = None,
    start: Start = None,
    device: Device = "cpu",
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Train nano's text encoder and DiT.

    They learn from the latents of the VAE that was trained in the same run. Continues where it stopped.
    """
    from lichtspiel.train.nano.stages import Stage, dit_stage
    from lichtspiel.train.state import Budget

    budget = Budget(minutes=minutes, steps=steps)
    scores = dit_stage(run, Stage(budget=budget, start=start, device=device, seed=seed))
    _print_scores(scores, as_json)


def _print_scores(scores: dict[str, float], as_json: bool) -> None:
    print(json.dumps(scores) if as_json else "\n".join(f"{name:<24}{value:.4g}" for name, value in scores.items()))
