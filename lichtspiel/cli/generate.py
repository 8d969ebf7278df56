"""The verbs that make videos, and those that say with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lichtspiel.cli.common import Json, Sheet, Weights, observer, print_result, say, under_terms

if TYPE_CHECKING:
    from lichtspiel.request import Request
    from lichtspiel.workflows.terms import Terms

Made = Annotated[
    Path, typer.Option("--out", "-o", help="The MP4 file to write, or a PNG file for a picture, which is one frame.")
]
Video = Annotated[Path | None, typer.Option(help="VACE: video to edit or follow; MP4, picture or folder of pictures.")]
Mask = Annotated[
    Path | None,
    typer.Option(help="VACE: what of the video is made anew, in white; of the video's size and length."),
]
References = Annotated[
    list[Path] | None, typer.Option(help="VACE: picture of somebody or something to show; may be repeated.")
]
ContextScale = Annotated[float | None, typer.Option(help="VACE: weight of video, mask and references; 1 if not given.")]
Meeting = Annotated[
    str | None, typer.Option(help="How a picture or video meets the size: crop (if not given), pad or stretch.")
]
Size = Annotated[
    str | None, typer.Option(help="WIDTHxHEIGHT in pixels; taken from a given picture or video if it is not given.")
]
Lora = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[:STRENGTH]", help="LoRA to use, at strength 1 if not given; may be repeated."),
]
LoraPartial = Annotated[bool, typer.Option("--lora-partial", help="Use a LoRA even if not all of its layers fit.")]
Upscale = Annotated[
    int | None, typer.Option(help="Make frames 2 or 4 times as wide and high, with a network that sharpens edges.")
]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or int8 (processors only).")]
Preview = Annotated[Path | None, typer.Option(help="Only write a PNG of what the model would see of the given files.")]

__all__ = ["batch", "decode", "generate", "models", "replay", "show"]


@under_terms
def generate(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    out: Made = Path("lichtspiel.mp4"),
    model: Annotated[str, typer.Option(help="Checkpoint; see `lichtspiel models`.")] = "nano",
    image: Annotated[Path | None, typer.Option(help="Picture that the video starts with.")] = None,
    last_image: Annotated[Path | None, typer.Option(help="Picture that the video ends with.")] = None,
    video: Video = None,
    mask: Mask = None,
    reference: References = None,
    context_scale: ContextScale = None,
    fit: Meeting = None,
    size: Size = None,
    frames: Annotated[int | None, typer.Option(help="Number of frames, 4n+1.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Duration, instead of --frames.")] = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 1 is none.")] = None,
    shift: Annotated[float | None, typer.Option(help="Shift of the time grid toward noise.")] = None,
    solver: Annotated[str | None, typer.Option(help="unipc, dpm++ or euler.")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt; empty means empty.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; drawn and printed if not given.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Precision = "auto",
    lora: Lora = None,
    lora_partial: LoraPartial = False,
    upscale: Upscale = None,
    weights: Weights = None,
    sheet: Sheet = None,
    preview: Preview = None,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Make a video from a prompt and given pictures or videos, or a picture where --out ends in .png, and seal it."""
    from lichtspiel.inference.inputs import ask

    if frames is None and seconds is None and out.suffix.lower() == ".png":
        frames = 1
    request = ask(
        prompt=prompt, model=model, image=image, last_image=last_image, video=video, mask=mask, references=reference,
        context_scale=context_scale, fit=fit, size=size, frames=frames, seconds=seconds, steps=steps, guidance=guidance,
        shift=shift, solver=solver, negative=negative, seed=seed, device=device, dtype=dtype, lora=lora,
        lora_partial=lora_partial, upscale=upscale,
    )  # fmt: skip
    if preview is not None:
        _preview(request, preview, as_json)
        return
    from lichtspiel.workflows.generate import generate as run

    with observer() as watching:
        result = run(request, out, weights=weights, sheet=sheet, terms=terms, observer=watching)
    print_result(result.to_json(), sheet, as_json)


@under_terms
def decode(
    latents: Annotated[Path, typer.Argument(help="A latents file that generate kept.")],
    out: Made = Path("lichtspiel.mp4"),
    weights: Weights = None,
    sheet: Sheet = None,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Finish a video from latents, after an interruption or a full disk."""
    from lichtspiel.workflows.generate import decode as run

    with observer() as watching:
        result = run(latents, out, weights=weights, sheet=sheet, terms=terms, observer=watching)
    print_result(result.to_json(), sheet, as_json)


@under_terms
def batch(
    jobs: Annotated[Path, typer.Argument(help="JSON lines: one object a video, with the names of generate's options.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the videos; finished ones are not made again.")],
    weights: Weights = None,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Make many videos: all texts are encoded first, weights load once, and a second start goes on where it stopped."""
    from lichtspiel.workflows.batch import read_jobs, run_jobs

    failed = 0
    for outcome in run_jobs(read_jobs(jobs), out, weights=weights, terms=terms, say=say):
        failed += outcome.error is not None
        if as_json:
            print(json.dumps(outcome.to_json(), ensure_ascii=False), flush=True)
        else:
            print(
                f"line {outcome.line:<5}{outcome.error or outcome.path}{'' if outcome.made else ' (was there)'}",
                flush=True,
            )
    if failed:
        raise typer.Exit(1)


@under_terms
def replay(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    video: Annotated[Path, typer.Argument(help="A video or picture that this package made.")],
    out: Made = Path("replay.mp4"),
    prompt: Annotated[str | None, typer.Option(help="Its prompt, if this machine's record does not have it.")] = None,
    negative: Annotated[str | None, typer.Option(help="Its negative prompt, likewise.")] = None,
    given: Annotated[
        list[Path] | None,
        typer.Option(
            "--input", help="A file that it was made from, LoRAs included; found by its digest; may be repeated."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Another device than then.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Another precision than then.")] = None,
    weights: Weights = None,
    sheet: Sheet = None,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Make a video again from the parameters in its seal, and the prompt in this machine's record."""
    from lichtspiel.workflows.generate import generate as run
    from lichtspiel.workflows.replay import request_of

    request = request_of(video, prompt=prompt, negative=negative, inputs=given or [], device=device, dtype=dtype)
    with observer() as watching:
        result = run(request, out, weights=weights, sheet=sheet, terms=terms, observer=watching)
    print_result(result.to_json(), sheet, as_json)


def _preview(request: Request, path: Path, as_json: bool) -> None:
    from lichtspiel.inference.inputs import look
    from lichtspiel.inference.preprocess import preview
    from lichtspiel.workflows.generate import check_sheet

    check_sheet(path)
    notes = look(request).notes
    preview(request, path)
    if as_json:
        said = request.model_dump(mode="json") | {"preview": str(path), "notes": notes}
        print(json.dumps(said, ensure_ascii=False))
        return
    print(f"preview  {path}; nothing was generated")
    if request.video is not None:
        print("rows     what stays of the video, what is made anew, the mask (white is made anew), references")
    for note in notes:
        print(f"note     {note}")


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
    card = Path(__file__).parent.parent / row.name / "card.md"
    if row.embedded and card.is_file():
        print(f"\nmodel card  {card}")


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
