"""The verbs that render training clips and train a small model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lichtspiel.cli.common import Json, out_option, progress_bar

__all__ = ["render_clips", "train_dit", "train_vae"]

VariantName = Annotated[
    str | None,
    typer.Option(metavar="standard|large", help="nano with 40 subjects, or with all. [default: standard]"),
]  # fmt: skip
Start = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Exported weights to start from.")]
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
    data: Annotated[
        Path | None,
        typer.Argument(help="Folder of your own clips and pictures with captions. [default: rendered clips]"),
    ] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    clips: Annotated[
        int | None,
        typer.Option(
            min=128, metavar="NUMBER", help="Clips to render first, at least 128. [default: as the variant says]"
        ),
    ] = None,
    variant: VariantName = None,
    start: Start = None,
    device: Device = "cpu",
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Train the video VAE of a small model.

    It learns from clips that the package renders, or from your own. Continues an existing run where it stopped.
    """
    from lichtspiel.errors import InvalidInput
    from lichtspiel.train.nano.stages import Stage, vae_stage
    from lichtspiel.train.state import Budget

    if data is not None and clips is not None:
        raise InvalidInput("--clips is the number of clips to render; it cannot be given with a folder of clips")
    budget = Budget(minutes=minutes, steps=steps)
    stage = Stage(budget=budget, variant=variant, start=start, device=device, seed=seed, log=_log(as_json))
    scores = vae_stage(run, stage, clips=clips, source=data)
    _print_scores(scores, as_json)
    if not as_json:
        print(f"Next: lichtspiel train dit --run {run} --minutes {minutes or 60:g}")


def train_dit(
    run: Run,
    minutes: Minutes = None,
    steps: Steps = None,
    start: Start = None,
    device: Device = "cpu",
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Train a small model's text encoder and DiT.

    They learn from the latents of the VAE that was trained in the same run. Continues where it stopped, and writes the
    weights for `lichtspiel generate --weights` at the end.
    """
    from lichtspiel.train.nano.stages import Stage, dit_stage, export_stage, generate_command
    from lichtspiel.train.state import Budget

    budget = Budget(minutes=minutes, steps=steps)
    scores = dit_stage(run, Stage(budget=budget, start=start, device=device, seed=seed, log=_log(as_json)))
    files = export_stage(run, run / "weights", teacher=True)
    if as_json:
        print(json.dumps(scores | {"weights": str(run / "weights")}))
        return
    _print_scores(scores, as_json)
    print(f"Weights: {', '.join(str(path) for path in files)}")
    if command := generate_command(run, run / "weights", teacher=True):
        print(f"Try it: {command}")


def _log(as_json: bool) -> Callable[[dict[str, float]], None]:
    """How numbers are shown while training runs; JSON stands alone on the standard output."""
    from lichtspiel.train.nano.stages import print_metrics

    return partial(print_metrics, file=sys.stderr) if as_json else print_metrics


def _print_scores(scores: dict[str, float], as_json: bool) -> None:
    print(json.dumps(scores) if as_json else "\n".join(f"{name:<24}{value:.4g}" for name, value in scores.items()))
