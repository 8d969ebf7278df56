"""The verbs that make videos, and those that say with what."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lichtspiel.cli.common import (
    OUTPUT,
    Checkpoint,
    Force,
    Json,
    Sheet,
    Weights,
    free_output,
    led,
    observer,
    out_option,
    print_plan,
    print_result,
    progress_bar,
    say,
    without_effect,
)
from lichtspiel.cli.flags import Options, message, of_request, under_terms
from lichtspiel.errors import printable
from lichtspiel.options import COMPUTING, SAMPLING

if TYPE_CHECKING:
    from lichtspiel.inference.inputs import Inputs
    from lichtspiel.request import Request
    from lichtspiel.workflows.terms import Terms
    from lichtspiel.workflows.variants import Variant

Made = Annotated[
    Path | None,
    out_option(
        "MP4, GIF or WebP to write, or PNG for one frame, or a folder; {prompt}, {seed} and {model} are filled in. "
        "[default: a free name]"
    ),
]
Preview = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Only write a PNG of what the model would see of the input files.", rich_help_panel=OUTPUT
    ),
]

Count = Annotated[
    int | None,
    typer.Option(metavar="NUMBER", help="How many videos to make, with seeds in a row.", rich_help_panel=SAMPLING),
]
Seeds = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="One video for each seed, such as 1-8 or 3,5,9.", rich_help_panel=SAMPLING),
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only print the plan: memory and time.", rich_help_panel=COMPUTING)
]

__all__ = ["batch", "decode", "generate", "models", "replay", "show"]


@of_request()
@under_terms
def generate(  # noqa: PLR0913  (one parameter is one flag)
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the video shows, in quotes.")],
    out: Made = None,
    *,
    options: Options,
    weights: Weights = None,
    sheet: Sheet = None,
    preview: Preview = None,
    count: Count = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
    force: Force = False,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Make a video from a prompt, pictures or a video.

    A picture starts the video (--image) or ends it (--last-image); a video is edited or continued by the VACE models
    (--video, --mask, --reference). Where --out ends in .png, the result is a picture. Everything is sealed: marked as
    made by AI and signed.
    """
    from lichtspiel import distilled
    from lichtspiel.inference.inputs import resolve_request
    from lichtspiel.workflows.names import filled

    several = _seeds(count, seeds, options)
    if several:
        without_effect({"--preview": preview}, "a preview shows the input files, whatever the seed; drop one of them")
        options["seed"] = several[0]
    if out is not None and out.suffix.lower() == ".png" and not options.typed.keys() & {"frames", "seconds"}:
        options.pop("seconds", None)
        options["frames"] = 1
    for name, value in distilled.defaults(map(str, weights or ()), options).items():
        options.setdefault(name, value)
    request, inputs = resolve_request(prompt=prompt, **options)
    if dry_run:
        _plan(request, weights, as_json)
        return
    if len(several) > 1:
        variants = _variants(request, several, out, sheet, force=force)
        with led(weights) as leads:
            if leads:
                _generate_several(variants, inputs, weights, terms, as_json=as_json)
        return
    out, sheet = (path and filled(path, request) for path in (out, sheet))
    out = free_output(out, "lichtspiel.mp4", sheet, preview, force=force)
    if preview is not None:
        _preview(request, inputs, preview, as_json)
        return
    from lichtspiel.workflows.generate import generate as run

    with led(weights) as leads:
        if not leads:
            return
        with observer() as watching:
            result = run(request, out, weights=weights, sheet=sheet, terms=terms, inputs=inputs, observer=watching)
    print_result(result.to_json(), sheet, as_json)


def _plan(request: Request, weights: list[Path] | None, as_json: bool) -> None:
    """Print what a request would take on this machine."""
    from lichtspiel.inference.estimate import estimate
    from lichtspiel.spec import model

    estimated = estimate(
        model(request.model), request.size, request.seen,
        device=request.device, dtype=request.dtype, weights=weights,
    )  # fmt: skip
    print_plan(estimated, request.steps, guided=request.guidance != 1, as_json=as_json)


def _seeds(count: int | None, seeds: str | None, options: Options) -> list[int]:
    """The seeds of several videos; none if one video is asked for."""
    from lichtspiel.workflows.names import seeds_from, seeds_of

    if seeds is None:
        return [] if count is None else seeds_from(options.get("seed"), count)
    without_effect({"--count": count}, "--seeds says how many there are; drop one of them")
    without_effect({"--seed": options["seed"] if "seed" in options.typed else None}, "--seeds has the seeds; drop it")
    return seeds_of(seeds)


def _variants(
    request: Request, seeds: list[int], out: Path | None, sheet: Path | None, *, force: bool
) -> list[Variant]:
    """The request with each of the seeds, and where its video and contact sheet go."""
    from lichtspiel.workflows.names import filled, with_seed

    variants: list[Variant] = []
    for seed in seeds:
        variant = request.model_copy(update={"seed": seed})
        default, path, shown = (
            each and filled(with_seed(each, seeds), variant) for each in (Path("lichtspiel.mp4"), out, sheet)
        )
        path = out if out is not None and out.is_dir() else path
        variants.append((variant, free_output(path, str(default), shown, force=force), shown))
    return variants


def _generate_several(
    variants: list[Variant], inputs: Inputs, weights: list[Path] | None, terms: Terms, *, as_json: bool
) -> None:
    """Make several videos. With `--json`, each is a line."""
    from lichtspiel.errors import LichtspielError
    from lichtspiel.workflows.generate import Observer
    from lichtspiel.workflows.variants import generate_variants

    codes = []
    with progress_bar() as progress:
        observers = functools.partial(Observer, progress=progress, note=say)
        made = generate_variants(variants, inputs=inputs, weights=weights, terms=terms, observer=observers)
        for (variant, _, shown), result in zip(variants, made, strict=True):
            if isinstance(result, LichtspielError):
                codes.append(result.exit_code)
                said = {"seed": variant.seed, "error": message(result), "exit_code": result.exit_code}
                print(json.dumps(said) if as_json else printable(f"error    seed {variant.seed}: {message(result)}"))
                continue
            print_result(result.to_json(), shown, as_json)
            if not as_json:
                print()
    if codes:
        raise typer.Exit(codes[0] if len(set(codes)) == 1 else 1)


@under_terms
def decode(  # noqa: PLR0913  (one parameter is one flag)
    latents: Annotated[Path, typer.Argument(metavar="LATENTS", help="Latents file that generate kept.")],
    out: Made = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Its prompt, if --no-record-prompt kept it from the file.")
    ] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="Its negative prompt, likewise.")] = None,
    weights: Weights = None,
    sheet: Sheet = None,
    force: Force = False,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Finish a video from latents that were kept.

    After an interruption or a full disk, the message names the latents file. No step is computed again.
    """
    from lichtspiel.workflows.generate import decode as run

    out = free_output(out, "lichtspiel.mp4", sheet, force=force)
    with observer() as watching:
        result = run(
            latents, out, prompt=prompt, negative=negative, weights=weights, sheet=sheet, terms=terms,
            observer=watching,
        )  # fmt: skip
    print_result(result.to_json(), sheet, as_json)


@of_request()
@under_terms
def batch(
    jobs: Annotated[
        Path, typer.Argument(metavar="JOBS", help="A prompt or a JSON object a line; or a JSON array, or CSV.")
    ],
    out: Annotated[Path, out_option("Folder for the videos; finished ones are kept.")],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="File names, such as {prompt}-{seed}.mp4. [default: the line's number]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    *,
    options: Options,
    seeds: Seeds = None,
    weights: Weights = None,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Make many videos from a file of prompts or jobs.

    A line is a prompt, or an object with the fields of a request, such as {"prompt": "a cat", "seed": 1, "out":
    "cat.mp4"}; options hold for all lines that do not set them. All prompts are encoded first and weights are loaded
    once. A second start continues where the first one stopped.
    """
    from lichtspiel.workflows.batch import read_jobs, run_jobs
    from lichtspiel.workflows.names import seeds_of

    codes = []
    several = [] if seeds is None else seeds_of(seeds)
    lines = read_jobs(jobs, terms, options.complete, name=name, seeds=several)
    with led(weights) as leads:
        for outcome in run_jobs(lines, out, weights=weights, terms=terms, say=say) if leads else ():
            if outcome.error is not None:
                codes.append(outcome.exit_code)
            if as_json:
                print(json.dumps(outcome.to_json(), ensure_ascii=False), flush=True)
            else:
                became = f"{outcome.error or outcome.path}{'' if outcome.made else ' (made before)'}"
                print(printable(f"line {outcome.line:<5}{became}"), flush=True)
    if codes:
        raise typer.Exit(codes[0] if len(set(codes)) == 1 else 1)


@under_terms
def replay(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Video or picture that Lichtspiel made.")],
    out: Made = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Its prompt, if this computer's record does not have it.")
    ] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="Its negative prompt, likewise.")] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--input", metavar="FILE", help="File that it was made from, or a LoRA; found by digest. [may be repeated]"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Another device than the first time.")] = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="Another precision than the first time.")] = None,
    weights: Weights = None,
    sheet: Sheet = None,
    force: Force = False,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Make a video again from what its seal records.

    Parameters come from its seal and the prompt from this computer's record; input files are named with --input.
    """
    from lichtspiel.workflows.outputs import check_distinct
    from lichtspiel.workflows.replay import original_of
    from lichtspiel.workflows.replay import replay as run

    out = free_output(out, "replay.mp4", sheet, force=force)
    check_distinct({"--out": out, "--sheet": sheet}, [("VIDEO", video)])
    original = original_of(video, prompt=prompt, negative=negative, inputs=files or [], device=device, dtype=dtype)
    with observer() as watching:
        result, compared = run(original, out, weights=weights, sheet=sheet, terms=terms, observer=watching)
    print_result(result.to_json() | {"replay": {"same": compared.same, "text": compared.text}}, sheet, as_json)
    if not as_json:
        print(f"replay   {compared.text}")


def _preview(request: Request, inputs: Inputs, path: Path, as_json: bool) -> None:
    from lichtspiel.inference.preprocess import preview
    from lichtspiel.workflows.outputs import check_distinct, check_picture_name, input_files

    check_picture_name(path)
    check_distinct({"--preview": path}, input_files(request))
    notes = inputs.check(request)
    preview(request, inputs, path)
    if as_json:
        result = request.model_dump(mode="json") | {"preview": str(path), "notes": notes}
        print(json.dumps(result, ensure_ascii=False))
        return
    print(f"preview  {path}; nothing was generated")
    if request.video is not None:
        print("rows     what is kept of the video, what is replaced, the mask (white is replaced), references")
    for note in notes:
        print(f"note     {note}")


def models(as_json: Json = False) -> None:
    """List the models, with size and tasks."""
    from lichtspiel.spec import MODELS

    rows = list(MODELS.values())
    if as_json:
        keys = ("name", "title", "parameters", "embedded", "repository", "licence")
        print(json.dumps([{key: getattr(m, key) for key in keys} | {"tasks": sorted(m.tasks)} for m in rows], indent=2))
        return
    for m in rows:
        print(f"{m.name:<14}{_count(m.parameters):>7}  {', '.join(sorted(m.tasks)):<26} {m.title}")


def show(model: Checkpoint, as_json: Json = False) -> None:
    """Show a model's defaults, limits, shapes and files."""
    from dataclasses import asdict

    from lichtspiel.spec import model as find
    from lichtspiel.toybox.knowledge import LEARNED, known

    row = find(model)
    knows = known(LEARNED[model]) if model in LEARNED else {}
    facts = {**asdict(row), "tasks": sorted(row.tasks), "parameters": row.parameters, "knows": knows}
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
    for attribute, lists in knows.items():
        print(f"\n{attribute}")
        for language, words in lists.items():
            print(f"  {language}  {', '.join(words)}")
    card = Path(__file__).parent.parent / row.name / "card.md"
    if row.embedded and card.is_file():
        print(f"\nmodel card  {card}")


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
