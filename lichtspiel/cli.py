"""The command line: it parses, calls and prints. Everything heavy is imported inside the verb that needs it.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 2 the request or a file is not usable,
3 refused by policy, 1 anything else; `verify` adds 4 for "nothing found" and 5 for "tampered".
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from lichtspiel.errors import LichtspielError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich's help costs 0.2 s
    help="Open video models that anyone can run, adapt and vouch for.",
)
worlds = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The toybox: captioned clips that the package renders itself."
)
train = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Train the networks of a small model from scratch."
)
app.add_typer(worlds, name="worlds")
app.add_typer(train, name="train")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The MP4 file to write.")]
Sheet = Annotated[Path | None, typer.Option(help="Also write a PNG of frames, to look at without a player.")]
Weights = Annotated[Path | None, typer.Option(help="Folder of a checkpoint that does not ship with the package.")]
Embed = Annotated[bool, typer.Option("--embed-prompt", help="Publish the prompt's text in the seal, not its digest.")]


@app.command()
def generate(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    out: Out = Path("lichtspiel.mp4"),
    model: Annotated[str, typer.Option(help="Checkpoint; see `lichtspiel models`.")] = "nano",
    image: Annotated[Path | None, typer.Option(help="Picture that the video starts with.")] = None,
    last_image: Annotated[Path | None, typer.Option(help="Picture that the video ends with.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Number of frames, 4n+1.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Duration, instead of --frames.")] = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 1 is none.")] = None,
    shift: Annotated[float | None, typer.Option(help="Shift of the time grid toward noise.")] = None,
    solver: Annotated[str | None, typer.Option(help="unipc, dpm++ or euler.")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt; empty means empty.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; drawn and printed if not given.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    weights: Weights = None,
    sheet: Sheet = None,
    embed_prompt: Embed = False,
    as_json: Json = False,
) -> None:
    """Make a video from a prompt, and a first or a first and a last image, and seal it."""
    from lichtspiel.request import Request

    request = Request.of(
        prompt=prompt, model=model, image=image, last_image=last_image, size=size, frames=frames, seconds=seconds,
        steps=steps, guidance=guidance, shift=shift, solver=solver, negative=negative, seed=seed, device=device,
        dtype=dtype,
    )  # fmt: skip
    from lichtspiel.job import generate as run

    with progress_bar() as progress:
        result = run(request, out, weights=weights, embed_prompt=embed_prompt, sheet=sheet, progress=progress)
    _print_result(result.to_json(), sheet, as_json)


@app.command()
def decode(
    latents: Annotated[Path, typer.Argument(help="A latents file that generate kept.")],
    out: Out = Path("lichtspiel.mp4"),
    weights: Weights = None,
    sheet: Sheet = None,
    embed_prompt: Embed = False,
    as_json: Json = False,
) -> None:
    """Finish a video from latents, after an interruption or a full disk."""
    from lichtspiel.job import decode as run

    with progress_bar() as progress:
        result = run(latents, out, weights=weights, embed_prompt=embed_prompt, sheet=sheet, progress=progress)
    _print_result(result.to_json(), sheet, as_json)


@app.command()
def verify(file: Annotated[Path, typer.Argument(help="Any video file.")], as_json: Json = False) -> None:
    """Say where a video comes from, how it was made and whether it is intact."""
    from lichtspiel.seal import card, exit_code
    from lichtspiel.seal import verify as run

    report = run(file)
    print(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else card(report))
    raise typer.Exit(exit_code(report))


@app.command()
def models(as_json: Json = False) -> None:
    """List every checkpoint with its size and tasks."""
    from lichtspiel.spec import MODELS

    rows = list(MODELS.values())
    if as_json:
        keys = ("name", "title", "parameters", "embedded", "repository", "licence")
        print(json.dumps([{key: getattr(m, key) for key in keys} | {"tasks": sorted(m.tasks)} for m in rows], indent=2))
        return
    for m in rows:
        print(f"{m.name:<14}{_count(m.parameters):>7}  {', '.join(sorted(m.tasks)):<26} {m.title}")


@app.command()
def show(model: Annotated[str, typer.Argument(help="Name of a checkpoint.")], as_json: Json = False) -> None:
    """Show a checkpoint's constants, sampling defaults and files."""
    from dataclasses import asdict

    from lichtspiel.spec import model as find

    row = find(model)
    facts = {**asdict(row), "tasks": sorted(row.tasks), "parameters": row.parameters}
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    print(f"{row.name}: {row.title}\n")
    print(
        f"tasks       {', '.join(sorted(row.tasks))}\nparameters  {row.parameters:,} (DiT)\nlicence     {row.licence}"
    )
    print(f"weights     {'inside this package' if row.embedded else row.repository}")
    for name, value in asdict(row.sampling).items():
        shown = ", ".join(f"{w}x{h}" for w, h in value) if name == "sizes" else repr(value) if value == "" else value
        print(f"{name:<12}{shown}")
    for part in ("dit", "vae", "umt5", "clip"):
        if facts[part]:
            print(f"{part:<12}{', '.join(f'{key} {value}' for key, value in facts[part].items())}")
    card = Path(__file__).parent / row.name / "card.md"
    if row.embedded and card.is_file():
        print(f"\nmodel card  {card}")


@worlds.command("render")
def render_clips(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the clips; made if it is not there.")],
    count: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip; the others follow.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "128x128",
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip; a clip is a two-second event.")] = 17,
    as_json: Json = False,
) -> None:
    """Render captioned training clips: sealed MP4 files and one captions.jsonl."""
    from lichtspiel.clips import export_clips

    with progress_bar() as progress:
        rows = export_clips(out, count=count, seed=seed, size=size, frames=frames, progress=progress)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for row in rows:
        print(f"{row['path']}  {row['captions']['en']}")


@train.command("vae")
def train_vae(
    run: Annotated[Path, typer.Option(help="Folder of the run; an existing run goes on.")],
    minutes: Annotated[float | None, typer.Option(help="Time box.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of --minutes.")] = None,
    clips: Annotated[int | None, typer.Option(min=128, help="Clips to render for training; 8000 if none are.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 1,
    as_json: Json = False,
) -> None:
    """Train nano's video VAE on rendered clips; resumes where it stopped."""
    from lichtspiel.train.nano import vae_stage

    scores = vae_stage(run, minutes=minutes, steps=steps, clips=clips, device=device, seed=seed)
    _print_scores(scores, as_json)


@train.command("dit")
def train_dit(
    run: Annotated[Path, typer.Option(help="Folder of the run, with a trained VAE; an existing run goes on.")],
    minutes: Annotated[float | None, typer.Option(help="Time box.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of --minutes.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 1,
    as_json: Json = False,
) -> None:
    """Train nano's text encoder and DiT on the latents of the run's VAE; resumes where it stopped."""
    from lichtspiel.train.nano import dit_stage

    scores = dit_stage(run, minutes=minutes, steps=steps, device=device, seed=seed)
    _print_scores(scores, as_json)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar with the remaining time on stderr; nothing when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=1.0)
        yield lambda stage, done: bar.update(task, description=stage, completed=done)


def _print_result(result: dict[str, Any], sheet: Path | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    size, timings = "x".join(map(str, result["size"])), result["timings"]
    stages = ", ".join(f"{stage} {timings[stage]:.1f}" for stage in ("load", "encode", "denoise", "decode", "seal"))
    settings = (
        f"{result['steps']} steps of {result['solver']}, guidance {result['guidance']:g}, shift {result['shift']:g}"
    )
    print(f"video    {result['path']}")
    if sheet is not None:
        print(f"sheet    {sheet}")
    print(f"picture  {size}, {result['frames']} frames at {result['fps']} a second")
    print(f"made by  {result['model']}, seed {result['seed']}, {settings}, {result['dtype']} on {result['device']}")
    print(f"took     {timings['total']:.1f} s ({stages})")
    print(f"sealed   {result['seal']['signer']}; check with: lichtspiel verify {result['path']}")
    print(f"latents  {result['latents']}")
    if result["unknown_words"]:
        print(f"note     {result['model']} does not know: {', '.join(result['unknown_words'])}")


def _print_scores(scores: dict[str, float], as_json: bool) -> None:
    print(json.dumps(scores) if as_json else "\n".join(f"{name:<24}{value:.4g}" for name, value in scores.items()))


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def main() -> None:
    """Entry point: runs a command and turns errors into one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is handled as Ctrl-C
    try:
        app()
    except LichtspielError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
