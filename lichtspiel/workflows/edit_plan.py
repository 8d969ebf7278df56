"""How one edit is made: which frames of a clip a VACE model sees, in which windows, which part of them, and with what
in place of the region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import RequestError
from lichtspiel.inference.inputs import Inputs, picture_size
from lichtspiel.media.media import Media
from lichtspiel.request import Request
from lichtspiel.spec import Model
from lichtspiel.workflows.clips import Clip, film_of
from lichtspiel.workflows.edits import Edit, style_of

if TYPE_CHECKING:
    from lichtspiel.footage.stitch import Crop, Region
    from lichtspiel.frames import Frame

__all__ = ["Lengths", "Plan", "plan_edit"]

_OVERLAP = 9
"""How many frames of a window are known from the one before, where a window has at least twice as many."""

_FASTER = 1.06
"""How much faster than the model a clip may be before frames are left out."""


@dataclass(frozen=True)
class Lengths:
    """How many frames the model makes at once, and how many of them it is given from the window before."""

    window: int
    overlap: int

    @classmethod
    def of(cls, row: Model, window: int | None = None, overlap: int | None = None) -> Lengths:
        """The lengths for a checkpoint, both 4n+1; None stands for the number of frames that it was trained on, and for
        9, or fewer in a short window. Raises RequestError."""
        stride, most = row.vae.stride[0], row.sampling.max_frames
        window = row.sampling.frames if window is None else window
        if window != row.nearest_frames(window, stride + 1):
            rule = f"{row.name} makes {row.frame_rule} frames at once, from {stride + 1} to {most}"
            raise RequestError("window", window, rule, row.nearest_frames(window, stride + 1))
        half = (window - 1) // 2 // stride * stride + 1
        overlap = min(_OVERLAP, half) if overlap is None else overlap
        if not 1 <= overlap <= half or (overlap - 1) % stride:
            rule = f"it is {row.frame_rule}, from 1 to {half}, half of a window"
            raise RequestError("overlap", overlap, rule, min(max((overlap - 1) // stride * stride + 1, 1), half))
        return cls(window, overlap)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One edit on frames that earlier edits may have changed.

    `feather` is the width of the region's seam. `picks` are the numbers of the frames that the model sees, one after
    another, `windows` the parts of that list that it makes at once, of which `overlap` frames are known, and `crops`
    the part of the frame for each of them (None where the region is on none of its frames). `size` is that of the crops
    for the model.
    """

    edit: Edit
    frames: Sequence[Frame]
    region: Region
    feather: int
    picks: list[int]
    overlap: int
    windows: list[tuple[int, int]]
    crops: list[Crop | None]
    size: tuple[int, int]

    def base(self, number: int) -> Frame:
        """A frame without the new part; around a frame that grows, it is gray."""
        import numpy as np

        from lichtspiel.footage.stitch import GRAY

        frame = self.frames[number]
        if self.edit.kind != "outpaint":
            return frame
        (width, height), (rows, columns) = self.region.size, frame.shape[:2]
        top, left = (height - rows) // 2, (width - columns) // 2
        canvas: Frame = np.full((height, width, 3), GRAY, np.uint8)
        canvas[top : top + rows, left : left + columns] = frame
        return canvas

    def given(self, index: int, known: Mapping[int, Frame]) -> tuple[list[Frame], list[Frame]]:
        """What the model gets in one window, at its size: its frames, and masks that are white where it makes them
        anew. Frames in `known` are finished: the first ones of a window after the first."""
        import numpy as np

        from lichtspiel.footage.stitch import filled, scaled

        (begin, end), crop = self.windows[index], self.crops[index]
        assert crop is not None
        numbers = self.picks[begin:end]
        drawings = self._drawings(crop, numbers)
        frames: list[Frame] = []
        masks: list[Frame] = []
        for place, number in enumerate(numbers):
            white = np.repeat(crop.cut(self.region.mask(number))[..., None] * np.uint8(255), 3, axis=2)
            mask = (scaled(white, self.size) > 127) * np.uint8(255)
            finished = known.get(number) if index and place < self.overlap else None
            if finished is not None:
                frame, mask = scaled(crop.cut(finished), self.size), np.zeros_like(mask)
            elif drawings:
                frame = drawings[place]
            else:
                frame = scaled(crop.cut(self.base(number)), self.size)
                frame = frame if self.edit.fill == "keep" else filled(frame, mask[..., 0] > 127)
            frames.append(frame)
            masks.append(mask)
        return frames, masks

    def _drawings(self, crop: Crop, numbers: Sequence[int]) -> list[Frame]:
        """What "restyle" goes by, drawn at the model's size, so that lines stay lines."""
        from lichtspiel.footage.controls import control
        from lichtspiel.footage.stitch import scaled

        if self.edit.kind != "restyle":
            return []
        seen = [scaled(crop.cut(self.frames[number]), self.size) for number in numbers]
        return list(control(seen, style_of(self.edit)))

    def request(
        self, index: int, clip: Clip, known: Mapping[int, Frame], options: Mapping[str, Any],
        references: Sequence[Media],
    ) -> tuple[Request, Inputs]:  # fmt: skip
        """The request for one window with its decoded files, as `Pipeline` takes them. `options` are about the model.
        Raises RequestError."""
        frames, masks = self.given(index, known)
        request = Request.of(
            prompt=self.edit.prompt,
            **{
                **options, "video": clip.media.path, "mask": clip.media.path, "references": self.edit.references,
                "size": self.size, "frames": len(frames), "fit": "stretch", "pace": "each",
            },
        )  # fmt: skip

        video, mask = film_of(clip, frames, request.fps), film_of(clip, masks, request.fps)
        return request, Inputs(video=video, mask=mask, references=[*references])


def plan_edit(
    edit: Edit, clip: Clip, frames: Sequence[Frame], region: Region, feather: int, row: Model, lengths: Lengths
) -> Plan:
    """Lay out one edit: windows over the frames that its region is on, and a crop around it in each."""
    from lichtspiel.footage import stitch

    assert region.span is not None
    picks = _picks(*region.span, float(clip.fps), row)
    windows = stitch.windows(len(picks), lengths.window, lengths.overlap)
    boxes = [stitch.union(region.boxes[picks[begin] : picks[end - 1] + 1]) for begin, end in windows]
    there = [box for box in boxes if box is not None]
    width, height = stitch.crop_around(there, region.size, row.sampling.sizes[0])
    if row.sampling.free_size:
        across, down = row.sampling.sizes[0]
        size = picture_size(across * down, width, height, row.grid)
    else:
        size = min(row.sampling.sizes, key=lambda size: abs(size[0] / size[1] - width / height))
    extent = stitch.to_ratio((width, height), size[0] / size[1], region.size)
    crops = [None if box is None else stitch.placed(box, extent, region.size) for box in boxes]
    return Plan(
        edit=edit, frames=frames, region=region, feather=feather, picks=picks, overlap=lengths.overlap,
        windows=windows, crops=crops, size=size,
    )  # fmt: skip


def _picks(first: int, last: int, fps: float, row: Model) -> list[int]:
    """The numbers of the frames that the model sees: at its own rate where the clip has more frames, else each one. The
    last one is repeated up to 4n+1 frames."""
    step = fps / row.sampling.fps if fps > _FASTER * row.sampling.fps else 1.0
    picks = [first]
    while picks[-1] < last:
        picks.append(min(first + round(len(picks) * step), last))
    return picks + [last] * (-(len(picks) - 1) % row.vae.stride[0])
