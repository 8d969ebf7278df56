"""The verb that changes a part of a clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import (
    OUTPUT,
    Force,
    Json,
    Weights,
    free_output,
    observer,
    out_option,
    without_effect,
)
from lichtspiel.cli.flags import Options, flag_of, of_request, under_terms
from lichtspiel.errors import printable

if TYPE_CHECKING:
    from lichtspiel.workflows.edits import Edit
    from lichtspiel.workflows.terms import Terms

__all__ = ["edit"]

WHAT, REGION, WINDOWS = "What to do", "The region", "Windows"

_OF_MODEL = (
    "references", "context_scale", "model", "lora", "lora_partial", "steps", "guidance", "shift", "solver", "times",
    "negative", "seed", "guidance_kind", "guidance_interval", "guidance_gate", "nag", "magcache", "device", "dtype",
    "vae_dtype", "attention", "compile",
)  # fmt: skip


def _what(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=WHAT)


def _region(*names: str, metavar: str | None = None, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=REGION)


@of_request(*_OF_MODEL, model="vace-1.3b")
@under_terms
def edit(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="Video file, or a folder of pictures.")],
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="What the new part shows, in quotes.")] = None,
    out: Annotated[Path | None, out_option("MP4 file for the result. [default: a free name]")] = None,
    replace: Annotated[
        str | None, _what(metavar="BOX|MASK", help="Make an object anew: a box around it, or its mask.")
    ] = None,
    add: Annotated[str | None, _what(metavar="BOX|MASK", help="Put something new into a box.")] = None,
    remove: Annotated[
        str | None, _what(metavar="BOX|MASK", help="Take an object out; the prompt shows what is behind.")
    ] = None,
    outpaint: Annotated[
        str | None, _what(metavar="WIDTHxHEIGHT", help="Enlarge the frame around the clip to a size.")
    ] = None,
    restyle: Annotated[
        bool, typer.Option("--restyle", help="Make all of it anew, along a drawing of it.", rich_help_panel=WHAT)
    ] = False,
    kind: Annotated[
        str | None,
        _what(metavar="edges|scribble|gray|flow", help="What --restyle draws of the clip. [default: scribble]"),
    ] = None,
    edits: Annotated[
        Path | None, _what(metavar="FILE", help="Several edits, one after another: a JSON object a line.")
    ] = None,
    at: Annotated[float | None, _region(metavar="SECONDS", help="When the frame with the box is shown.")] = None,
    shape: Annotated[
        str | None, _region(metavar="tight|box", help="Outline of the object, or the box around it.")
    ] = None,
    grow: Annotated[int | None, _region(metavar="PIXELS", help="Margin around the object.")] = None,
    feather: Annotated[int | None, _region(metavar="PIXELS", help="Width of the seam, inside the region.")] = None,
    fill: Annotated[
        str | None, _region(metavar="gray|keep", help="What the model sees in the region: nothing, or the clip.")
    ] = None,
    keep_going: Annotated[bool, _region("--keep-going", help="Go on even if the object may be lost.")] = False,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="FRAMES",
            rich_help_panel=WINDOWS,
            help="How many frames the model makes at once, 4n+1. [default: the model's]",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="FRAMES",
            rich_help_panel=WINDOWS,
            help="How many of them it gets from the window before, 4n+1. [default: 9, or fewer]",
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only write a PNG of what the model would get.", rich_help_panel=OUTPUT),
    ] = None,
    *,
    options: Options,
    weights: Weights = None,
    force: Force = False,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Change a part of a clip with a VACE model.

    The region around the mask is made at the model's own size and laid back into the clip. Pixels outside it, frame
    rate, length and sound stay as they are. A box is LEFT,TOP,RIGHT,BOTTOM in pixels; what is in it on one frame is
    tracked through the clip. A mask is a file, white where the clip is made anew, such as `lichtspiel track` writes.
    """
    from lichtspiel.workflows.edit import EditJob, preview_edits
    from lichtspiel.workflows.edit import edit as run

    if not restyle:
        without_effect({"--kind": kind}, "it says what --restyle draws; add that, or drop it")
    fields = {
        "replace": replace, "add": add, "remove": remove, "outpaint": outpaint,
        "restyle": restyle and (kind or True), "at": at,
        "shape": shape, "grow": grow, "feather": feather, "fill": fill,
        "keep_going": keep_going,
    }  # fmt: skip
    changes = _changes(edits, prompt, {**fields, "references": options.pop("references", None)})
    out = free_output(out, "edited.mp4", preview, force=force)
    with observer() as watching:
        job = EditJob(
            edits=changes, out=out, options=options, weights=weights, terms=terms, window=window, overlap=overlap,
            observer=watching,
        )  # fmt: skip
        result = run(clip, job) if preview is None else preview_edits(clip, job, preview)
    if preview is not None:
        _print_preview(result, as_json)
    else:
        _print_edited(result, as_json)


def _changes(file: Path | None, prompt: str | None, fields: dict[str, Any]) -> list[Edit]:
    """The edits of a file, or the one that was typed."""
    from lichtspiel.workflows.edits import Edit, read_edits

    if file is None:
        return [Edit.of(fields, prompt)]
    typed = {flag_of(name): None if value is False else value for name, value in fields.items()}
    without_effect({"the prompt": prompt, **typed}, "each line of --edits says it for itself; drop one or the other")
    return read_edits(file)


def _print_preview(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    print(f"preview  {printable(result['preview'])}; nothing was made")
    print("rows     the region and what the model sees of the clip, what is kept, what is made anew, the mask")
    for change in result["edits"]:
        print(_line(change))


def _print_edited(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    size, sound = "x".join(map(str, result["size"])), "sound kept" if result["sound"] else "no sound"
    print(f"{printable(result['path'])}  {size}, {result['frames']} frames at {result['fps']:g} fps, {sound}")
    for change in result["edits"]:
        print(_line(change))
    print(f"seed {result['seed']}")


def _line(change: dict[str, Any]) -> str:
    first, last = change["frames"]
    seen, made, box = "x".join(map(str, change["seen"])), "x".join(map(str, change["made_at"])), change["box"]
    windows = f"{change['windows']} window{'s' if change['windows'] > 1 else ''}"
    return (
        f"{change['kind']:<9}frames {first} to {last} in {','.join(map(str, box))}: {seen} pixels made at {made}, "
        f"{windows}, seam {change['seam']} pixels"
    )
