"""What is to be changed in a clip: one edit after another, as typed or as lines of a file; and which part of the clip
each one is about.

An edit is a ready setting of VACE: what the mask covers, and what the model sees within it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from lichtspiel.errors import InvalidInput, LichtspielError, RequestError
from lichtspiel.inference.inputs import check_mask
from lichtspiel.media.media import Media
from lichtspiel.options import closest
from lichtspiel.request import value_of
from lichtspiel.workflows.clips import Clip, frame_at
from lichtspiel.workflows.jobs import read_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lichtspiel.footage.controls import Kind as Control
    from lichtspiel.footage.masks import Shape
    from lichtspiel.footage.pixels import Mask
    from lichtspiel.footage.selection import Box, Selection
    from lichtspiel.footage.stitch import Region
    from lichtspiel.frames import Frame

__all__ = ["KINDS", "Edit", "Fill", "Kind", "read_edits", "region_of", "style_of"]

Kind = Literal["replace", "add", "remove", "outpaint", "restyle"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Fill = Literal["gray", "keep"]

_MARGIN, _FEATHER = 0.03, 0.015
"""How far a tracked region grows, and the width of its seam, as shares of the clip's shorter side. The seam lies within
the margin, so that nothing of the object is left."""

_STYLES = ("edges", "scribble", "gray", "flow")
_WAYS = ", ".join(f"--{kind}" for kind in KINDS)
_TYPES: dict[str, tuple[type, ...]] = {
    "prompt": (str,), "at": (int, float), "shape": (str,), "grow": (int,), "feather": (int,), "fill": (str,),
    "keep_going": (bool,), "references": (list, tuple, str, Path),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change of a clip. `Edit.of` makes it from what was typed.

    `where` is a box for "replace", "add" and "remove", or the file of a mask (white is made anew); the size of the new
    frame for "outpaint"; and the drawing that holds the picture's shapes for "restyle". `at` is the second at which the
    box of "replace" and "remove" holds the object, which is tracked from there. `shape`, `grow` and `feather` are the
    mask's outline, margin and seam in pixels; None stands for what the kind of edit needs. With `fill` "gray" the model
    does not see what was in the region, with "keep" it does. `keep_going` takes masks even if the object may be lost.
    """

    kind: Kind
    prompt: str
    where: Box | Path | tuple[int, int] | str
    at: float = 0.0
    shape: Shape | None = None
    grow: int | None = None
    feather: int | None = None
    fill: Fill = "gray"
    keep_going: bool = False
    references: tuple[Path, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any], prompt: str | None = None) -> Edit:
        """An edit from its fields, which may be texts; one of `KINDS` says what is done where. Raises InvalidInput."""
        fields = {name: value for name, value in fields.items() if value is not None and value is not False}
        kinds = [kind for kind in KINDS if kind in fields]
        if len(kinds) != 1:
            raise InvalidInput(f"say what to do, by one of {_WAYS}; several edits go into a file: --edits edits.jsonl")
        kind, where = kinds[0], fields.pop(kinds[0])
        text = fields.pop("prompt", prompt)
        if text is None:
            raise RequestError("prompt", None, "say what the new part shows")
        for name, value in fields.items():
            if name not in _TYPES:
                known = [*KINDS, *_TYPES]
                raise RequestError(name, value, f"an edit has {', '.join(known)}", closest(name, known))
            if not isinstance(value, _TYPES[name]) or (isinstance(value, bool) and bool not in _TYPES[name]):
                raise RequestError(name, value, f"it is {' or '.join(kind.__name__ for kind in _TYPES[name])}")
        edit = cls(
            kind=kind, prompt=text, where=_WHERE[kind](kind, where),
            **{**fields, "references": value_of("references", fields.get("references", ()))},
        )  # fmt: skip
        return edit._checked()

    def _checked(self) -> Edit:
        tracked = self.kind in {"replace", "remove"} and not isinstance(self.where, Path)
        idle: dict[str, bool] = {
            "at": bool(self.at) and not tracked,
            "shape": self.shape is not None and not tracked,
            "keep_going": self.keep_going and not tracked,
            "grow": self.grow is not None and self.kind in {"outpaint", "restyle"},
            "feather": self.feather is not None and self.kind == "restyle",
            "fill": self.fill != "gray" and self.kind in {"outpaint", "restyle"},
        }
        for name, value, choices in (("shape", self.shape, ("tight", "box")), ("fill", self.fill, get_args(Fill))):
            if value is not None and value not in choices:
                raise RequestError(name, value, f"it is {' or '.join(choices)}", closest(value, choices))
        for name, without_effect in idle.items():
            if without_effect:
                raise RequestError(name, getattr(self, name), f"it has no effect on {self.kind}: drop it")
        if self.feather is not None and self.feather < 0:
            raise RequestError("feather", self.feather, "a seam is at least 0 pixels wide", 0)
        return self

    @property
    def files(self) -> list[tuple[str, Path]]:
        """The files that the edit reads, with the flags they come from."""
        mask = [(f"--{self.kind}", self.where)] if isinstance(self.where, Path) else []
        return mask + [("--reference", path) for path in self.references]


def _place(kind: str, value: Any) -> Box | Path:
    """A box of four numbers, or the path of a mask."""
    rule = "it is a box LEFT,TOP,RIGHT,BOTTOM in pixels, such as 120,40,300,220, or the file of a mask"
    parts = [str(part).strip() for part in (value if isinstance(value, list | tuple) else str(value).split(","))]
    if len(parts) == 4 and all(part.removeprefix("-").isdecimal() for part in parts):
        return cast("Box", tuple(map(int, parts)))
    path = Path(str(value))
    if not path.exists():
        raise RequestError(kind, str(value), rule)
    return path


def _canvas(kind: str, value: Any) -> tuple[int, int]:
    try:
        size: tuple[int, int] = value_of("size", value)
    except RequestError as error:
        raise RequestError(kind, value, error.rule, error.nearest) from None
    if size[0] % 2 or size[1] % 2:
        near = f"{size[0] + size[0] % 2}x{size[1] + size[1] % 2}"
        raise RequestError(kind, f"{size[0]}x{size[1]}", "width and height are even", near)
    return size


def _style(kind: str, value: Any) -> str:
    style = "scribble" if value is True else value
    if style not in _STYLES:
        raise RequestError(kind, value, f"the drawing is {', '.join(_STYLES)}", closest(value, _STYLES))
    return str(style)


_WHERE: dict[Kind, Callable[[str, Any], Any]] = {
    "replace": _place, "add": _place, "remove": _place, "outpaint": _canvas, "restyle": _style,
}  # fmt: skip


def read_edits(path: Path) -> list[Edit]:
    """The edits of a file, in the order in which they are made: a JSON object a line, a JSON array, or CSV. Raises
    InvalidInput, which names the line."""
    edits: list[Edit] = []
    number, entries = 1, read_entries(path)
    try:
        for number, fields in entries:  # noqa: B007  (the error names it)
            edits.append(Edit.of(fields))
    except (InvalidInput, ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{path}, line {number}: {error}") from None
    if not edits:
        example = '{"prompt": "a red car", "replace": "120,40,300,220"}'
        raise InvalidInput(f"{path} holds no edits; write an object such as {example} a line")
    return edits


def region_of(
    edit: Edit, clip: Clip, frames: Sequence[Frame], progress: Callable[[float], None] = lambda share: None
) -> tuple[Region, int]:
    """The region of an edit on the frames of a clip, which earlier edits may have changed, and the width of its seam.

    Raises RequestError for a box or mask that does not fit the clip, and LichtspielError, which names the frame, where
    a tracked object was probably lost.
    """
    from lichtspiel.footage.stitch import Region

    height, width, _ = frames[0].shape
    feather = max(round(min(width, height) * _FEATHER), 1) if edit.feather is None else edit.feather
    if edit.kind == "restyle":
        return Region.of(_everywhere(len(frames), height, width), (width, height)), 0
    if edit.kind == "outpaint":
        canvas = cast("tuple[int, int]", edit.where)
        return Region.of(_around(canvas, (width, height), feather, len(frames)), canvas), feather
    try:
        region = Region.of(_masks(edit, clip, frames, progress), (width, height))
    except RequestError as error:
        field = edit.kind if error.field in {"box", "mask"} else error.field
        raise RequestError(field, error.value, error.rule, error.nearest) from None
    if region.span is None:
        raise RequestError(edit.kind, str(edit.where), "its mask is black on every frame: what is white is made anew")
    return region, feather


def _everywhere(count: int, height: int, width: int) -> Iterator[Mask]:
    import numpy as np

    for _ in range(count):
        yield np.ones((height, width), bool)


def _around(canvas: tuple[int, int], size: tuple[int, int], feather: int, count: int) -> Iterator[Mask]:
    """What lies around the clip in the middle of a canvas, and a seam within the clip where it borders on that."""
    import numpy as np

    if canvas[0] < size[0] or canvas[1] < size[1] or canvas == size:
        shown = f"{size[0]}x{size[1]}"
        least = f"{max(canvas[0], size[0])}x{max(canvas[1], size[1])}"
        rule = f"the new frame is larger than the clip, which is {shown}"
        raise RequestError("outpaint", f"{canvas[0]}x{canvas[1]}", rule, None if canvas == size else least)
    left, top = (canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2
    across, down = feather * (canvas[0] > size[0]), feather * (canvas[1] > size[1])
    mask = np.ones((canvas[1], canvas[0]), bool)
    mask[top + down : top + size[1] - down, left + across : left + size[0] - across] = False
    for _ in range(count):
        yield mask


def _masks(
    edit: Edit, clip: Clip, frames: Sequence[Frame], progress: Callable[[float], None]
) -> Iterator[Mask]:  # fmt: skip
    from lichtspiel.footage.masks import shaped
    from lichtspiel.footage.selection import Selection

    height, width, _ = frames[0].shape
    if isinstance(edit.where, Path):
        for mask in _from_file(edit.where, clip):
            yield shaped(mask, grow=edit.grow or 0) > 0
        return
    selection = Selection(box=cast("Box", edit.where)).check(width, height)
    if edit.kind == "add":
        still = shaped(selection.area(width, height), "box", edit.grow or 0) > 0
        for _ in frames:
            yield still
        return
    shape: Shape = edit.shape or ("box" if edit.kind == "replace" else "tight")
    grow = max(round(min(width, height) * _MARGIN), 2) if edit.grow is None else edit.grow
    for mask in _tracked(edit, clip, frames, selection, progress):
        yield shaped(mask, shape, grow) > 0


def _tracked(
    edit: Edit, clip: Clip, frames: Sequence[Frame], selection: Selection, progress: Callable[[float], None]
) -> Iterator[Mask]:
    from lichtspiel.footage.track import follow_selections

    start = frame_at(clip, edit.at)
    found = follow_selections(frames, start, [selection], progress=progress)
    if not found.masks(start)[0].any():
        rule = "nothing stands out from its surroundings there; select it closer, or give the file of a mask"
        raise RequestError(edit.kind, ",".join(map(str, cast("Box", edit.where))), rule)
    if (lost := found.first_lost) is not None and not edit.keep_going:
        raise LichtspielError(
            f"from frame {lost} ({float(lost / clip.fps):.2f} s) on, the object may be lost, confidence "
            f"{found.confidence[lost]:.2f}; nothing was made. Look at the mask with `lichtspiel track` and give its "
            "file, select the object on a frame nearer to that with --at, or add --keep-going"
        )
    for number in range(found.count):
        yield found.masks(number)[0]


def _from_file(path: Path, clip: Clip) -> Iterator[Mask]:
    media = Media.read_video(path, lambda timeline: range(timeline.count), fps=float(clip.fps))
    check_mask(clip.media, media)
    frames = media.frames[:1] * len(clip.frames) if media.still else media.frames
    for frame in frames:
        yield frame[..., 0] > 127


def style_of(edit: Edit) -> Control:
    """The drawing that "restyle" goes by."""
    return cast("Control", edit.where)
