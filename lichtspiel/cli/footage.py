"""The verbs for real footage: masks that follow an object, clips that go on, and control films."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lichtspiel.cli.common import (
    Force,
    Json,
    Sheet,
    Weights,
    free_output,
    observer,
    out_option,
    progress_bar,
    say,
    without_effect,
)
from lichtspiel.cli.flags import Options, of_request, under_terms
from lichtspiel.errors import printable

if TYPE_CHECKING:
    from lichtspiel.footage.selection import Selection
    from lichtspiel.workflows.go_on import Job
    from lichtspiel.workflows.terms import Terms

__all__ = ["bridge", "control", "extend", "loop", "track"]

SELECTION, MASK = "What to follow", "The mask"

ClipFile = Annotated[Path, typer.Argument(metavar="CLIP", help="Video file, or a folder of pictures.")]


def _select(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=SELECTION)


def _mask(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=MASK)


@under_terms
def track(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    clip: ClipFile,
    out: Annotated[Path | None, out_option("MP4 file for the mask. [default: a free name]")] = None,
    box: Annotated[
        list[str] | None, _select(metavar="L,T,R,B", help="Box around an object, in pixels. [may be repeated]")
    ] = None,
    polygon: Annotated[
        list[str] | None, _select(metavar="X,Y,...", help="Corners of its outline. [may be repeated]")
    ] = None,
    point: Annotated[list[str] | None, _select(metavar="X,Y", help="Point on the object. [may be repeated]")] = None,
    not_point: Annotated[
        list[str] | None, _select(metavar="X,Y", help="Point that is not on it. [may be repeated]")
    ] = None,
    object_: Annotated[
        list[Path] | None,
        _select("--object", metavar="FILE", help="Picture with the object painted white. [may be repeated]"),
    ] = None,
    at: Annotated[float, _select(metavar="SECONDS", help="When the selected frame is shown.")] = 0.0,
    shape: Annotated[
        Literal["tight", "box"], _mask(metavar="tight|box", help="Outline, or the box around it.")
    ] = "tight",
    grow: Annotated[int, _mask(metavar="PIXELS", help="Margin around the mask; negative shrinks it.")] = 0,
    feather: Annotated[int, _mask(metavar="PIXELS", help="Width of its soft edge.")] = 0,
    segmenter: Annotated[
        str | None,
        _select(metavar="ENCODER,DECODER", help="ONNX files of a segmenter as Segment Anything. [default: GrabCut]"),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Write the mask even if the object may be lost.", rich_help_panel=MASK)
    ] = False,
    sheet: Sheet = None,
    force: Force = False,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Follow an object through a clip and write its mask.

    Select it on one frame: by a box, points, an outline or a painted picture. The mask is white where the object is, as
    `generate --mask` takes it. Each frame has a confidence; where it is too low, the command stops with the frame.
    """
    from lichtspiel.workflows.track import Look
    from lichtspiel.workflows.track import track as run

    selections = _selections(box or [], polygon or [], point or [], not_point or [], object_ or [])
    out = free_output(out, "mask.mp4", sheet, force=force)
    with progress_bar() as progress:
        files = None if segmenter is None else _pair(segmenter)
        look = Look(shape=shape, grow=grow, feather=feather, keep_going=keep_going, segmenter=files)
        result = run(
            clip, out, selections, at=at, look=look, sheet=sheet, terms=terms,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print(json.dumps(result))
        return
    if result["low"]:
        say(f"look at {len(result['low'])} frames, from frame {result['low'][0]} on: the confidence is low there")
    least = min(result["confidence"])
    length = f"{result['frames']} frames at {result['fps']:g} fps"
    print(f"{printable(result['path'])}  {length}, confidence {least:.2f} or more")
    if sheet is not None:
        print(printable(str(sheet)))


def _selections(
    boxes: list[str], polygons: list[str], points: list[str], not_points: list[str], files: list[Path]
) -> list[Selection]:
    """One selection for each object: each box, polygon and picture is one, and all points together are one, or belong
    to the box if there is just one."""
    from lichtspiel.errors import InvalidInput
    from lichtspiel.footage.selection import Selection
    from lichtspiel.media.picture import load_image

    marks: list[tuple[int, int, bool]] = []
    for texts, inside in ((points, True), (not_points, False)):
        for text in texts:
            x, y = _numbers("point", text, 2)
            marks.append((x, y, inside))
    selections: list[Selection] = []
    for text in boxes:
        with_points = tuple(marks) if len(boxes) == 1 else ()
        left, top, right, bottom = _numbers("box", text, 4)
        selections.append(Selection(box=(left, top, right, bottom), points=with_points))
    if marks and len(boxes) != 1:
        selections.append(Selection(points=tuple(marks)))
    for text in polygons:
        values = _numbers("polygon", text, None)
        selections.append(Selection(polygon=tuple(zip(values[::2], values[1::2], strict=True))))
    selections += [Selection(mask=load_image(path)[..., 0] > 127) for path in files]
    if not selections:
        raise InvalidInput("say what to follow: --box LEFT,TOP,RIGHT,BOTTOM, or --point, --polygon or --object")
    return selections


def _pair(text: str) -> tuple[Path, Path]:
    """Two files between a comma. Raises RequestError."""
    from lichtspiel.errors import RequestError

    files = [part.strip() for part in text.split(",")]
    if len(files) != 2 or not all(files):
        raise RequestError(
            "segmenter", text, "it is ENCODER,DECODER, two ONNX files, such as encoder.onnx,decoder.onnx"
        )
    return Path(files[0]), Path(files[1])


def _numbers(field: str, text: str, count: int | None) -> tuple[int, ...]:
    """Whole numbers between commas. Raises RequestError."""
    from lichtspiel.errors import RequestError

    parts = text.replace(" ", "").split(",")
    rules = {
        "box": "a box is LEFT,TOP,RIGHT,BOTTOM in pixels, such as 120,40,300,220",
        "point": "a point is X,Y in pixels, such as 210,130",
        "polygon": "an outline is X,Y,X,Y,... of three corners or more",
    }
    try:
        values = tuple(int(part) for part in parts)
    except ValueError:
        raise RequestError(field, text, rules[field]) from None
    if (count is not None and len(values) != count) or (count is None and (len(values) < 6 or len(values) % 2)):
        raise RequestError(field, text, rules[field])
    return values


_OF_MODEL = (
    "model", "lora", "lora_partial", "steps", "guidance", "shift", "solver", "negative", "seed", "device", "dtype",
)  # fmt: skip
NEW = "What is added"
Seconds = Annotated[float, typer.Option(metavar="NUMBER", help="How long the new part is.", rich_help_panel=NEW)]
Blend = Annotated[
    int, typer.Option(metavar="FRAMES", min=0, help="Frames over which details fade at a seam.", rich_help_panel=NEW)
]
MatchColor = Annotated[
    bool, typer.Option("--match-color", help="Give the new part the colors of the clip.", rich_help_panel=NEW)
]
Longer = Annotated[Path | None, out_option("MP4 file for the result. [default: a free name]")]


@of_request(*_OF_MODEL)
@under_terms
def extend(  # noqa: PLR0913  (one parameter is one flag)
    clip: ClipFile,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What happens next, in quotes.")],
    out: Longer = None,
    *,
    seconds: Seconds = 2.0,
    blend: Blend = 4,
    match_color: MatchColor = False,
    options: Options,
    weights: Weights = None,
    force: Force = False,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Let a clip go on from its last frame.

    Size, frame rate, sound and all frames of the clip are kept. The model makes the new ones from the last picture, in
    several rounds if needed. Printed are the seam, compared with the clip's own motion, and the drift of colors.
    """
    from lichtspiel.workflows.go_on import extend as run

    _go_on(
        partial(run, clip), free_output(out, "longer.mp4", force=force), as_json, blend=blend, match_color=match_color,
        prompt=prompt, seconds=seconds, options=options, weights=weights, terms=terms,
    )  # fmt: skip


@of_request(*_OF_MODEL)
@under_terms
def bridge(  # noqa: PLR0913  (one parameter is one flag)
    clip: ClipFile,
    second: Annotated[Path, typer.Argument(metavar="CLIP", help="The clip that follows.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What happens between them, in quotes.")],
    out: Longer = None,
    *,
    seconds: Seconds = 2.0,
    blend: Blend = 4,
    match_color: MatchColor = False,
    options: Options,
    weights: Weights = None,
    force: Force = False,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Join two clips by new frames between them.

    The model makes them from the last picture of the first clip and the first one of the second. Both clips have one
    size; the result has the frame rate of the first one, and no sound.
    """
    from lichtspiel.workflows.go_on import bridge as run

    _go_on(
        partial(run, clip, second), free_output(out, "bridged.mp4", force=force), as_json, blend=blend,
        match_color=match_color, prompt=prompt, seconds=seconds, options=options, weights=weights, terms=terms,
    )  # fmt: skip


@of_request(*_OF_MODEL)
@under_terms
def loop(  # noqa: PLR0913  (one parameter is one flag)
    clip: ClipFile,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the clip shows, in quotes.")] = "the same scene",
    out: Longer = None,
    *,
    seconds: Seconds = 1.0,
    blend: Blend = 4,
    match_color: MatchColor = False,
    options: Options,
    weights: Weights = None,
    force: Force = False,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Close a clip to a loop by new frames at its end.

    They lead from the last picture back to the first. Printed is the larger of the two seams, compared with the clip's
    own motion from frame to frame: 1 cannot be told from it.
    """
    from lichtspiel.workflows.go_on import loop as run

    _go_on(
        partial(run, clip), free_output(out, "loop.mp4", force=force), as_json, blend=blend, match_color=match_color,
        prompt=prompt, seconds=seconds, options=options, weights=weights, terms=terms,
    )  # fmt: skip


def _go_on(
    run: Callable[[Job], dict[str, Any]], out: Path, as_json: bool, *, blend: int, match_color: bool, **asked: Any
) -> None:
    """Run a job that adds frames to clips, and print what it made."""
    from lichtspiel.workflows.go_on import Job, Joint

    with observer() as watching:
        joint = Joint(blend=blend, match_color=match_color)
        result = run(Job(out=out, joint=joint, observer=watching, **asked))
    _print_joint(result, as_json)


def _print_joint(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    first, last = result["new_frames"]
    seam = "the clip does not move" if result["seam"] is None else f"{result['seam']:.2f} times the clip's motion"
    print(f"{printable(result['path'])}  {result['frames']} frames at {result['fps']:g} fps, new are {first} to {last}")
    print(f"seam {seam}, color drift {result['drift']:.1f}, seed {result['seed']}")


@under_terms
def control(  # noqa: PLR0913  (one parameter is one flag)
    clip: ClipFile,
    kind: Annotated[
        Literal["edges", "scribble", "gray", "flow", "boxes", "depth", "pose"],
        typer.Option(metavar="edges|scribble|gray|flow|boxes|depth|pose", help="What is drawn."),
    ],
    out: Annotated[Path | None, out_option("MP4 file for the film. [default: a free name]")] = None,
    box: Annotated[
        list[str] | None,
        _select(metavar="L,T,R,B", help="Box around an object that --kind boxes follows. [may be repeated]"),
    ] = None,
    at: Annotated[float, _select(metavar="SECONDS", help="When the frame with the boxes is shown.")] = 0.0,
    network: Annotated[
        Path | None, typer.Option(metavar="FILE", help="ONNX file of the network for --kind depth or pose.")
    ] = None,
    force: Force = False,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Draw a clip's edges, shapes or motion as a control film.

    VACE models follow it: `generate --video control.mp4` without a mask. Depth and pose are seen by a network of yours,
    such as Depth Anything or YOLO for poses.
    """
    from lichtspiel.workflows.control import make_control

    if box is None and at:
        without_effect({"--at": at}, "it says on which frame the --box is; add that, or drop it")
    selections = _selections(box, [], [], [], []) if box else []
    out = free_output(out, "control.mp4", force=force)
    result = make_control(clip, out, kind, terms, network=network, selections=selections, at=at)
    if as_json:
        print(json.dumps(result))
        return
    print(f"{printable(result['path'])}  {result['kind']}, {result['frames']} frames at {result['fps']:g} fps")
