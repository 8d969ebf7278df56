"""Follow objects through a clip and write their masks as a video, white where the objects are.

The mask video has the clip's size, frame rate and number of frames, so it goes into `generate --mask` as it is. This
module knows files and what was selected; `footage` does the following.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import LichtspielError, MediaError
from lichtspiel.seal import Sealed, check_output, seal, seal_picture
from lichtspiel.storage import file_sha256
from lichtspiel.workflows.clips import Clip, even, plain_marks, provenance_of_clip, read_clip
from lichtspiel.workflows.outputs import check_distinct, check_picture_name
from lichtspiel.workflows.terms import Terms

if TYPE_CHECKING:
    from lichtspiel.footage.masks import Shape
    from lichtspiel.footage.selection import Selection
    from lichtspiel.footage.track import Track
    from lichtspiel.frames import Frame

__all__ = ["Look", "track"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the mask is written: its shape, its margin and the width of its soft edge in pixels; and whether it is
    written even if the object may be lost. `segmenter` are the ONNX files of an encoder and a mask decoder that cut the
    object out, instead of GrabCut."""

    shape: Shape = "tight"
    grow: int = 0
    feather: int = 0
    keep_going: bool = False
    segmenter: tuple[Path, Path] | None = None


def track(
    file: Path,
    out: Path,
    selections: Sequence[Selection],
    *,
    at: float = 0.0,
    look: Look | None = None,
    sheet: Path | None = None,
    terms: Terms | None = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> dict[str, Any]:
    """Write the mask of one or more objects, selected on the frame that is shown after `at` seconds.

    Returns what `track --json` prints. Raises LichtspielError, which names the first frame, when an object was probably
    lost, unless `look.keep_going` is set; RequestError for selections that do not fit; MediaError for a clip that
    cannot be read or whose selected place holds nothing to follow.
    """
    from lichtspiel.footage.segment import grab
    from lichtspiel.footage.track import follow_selections
    from lichtspiel.workflows.clips import frame_at
    from lichtspiel.workflows.plugs import segmenter_of

    terms, look = terms or Terms(), look or Look()
    check_distinct({"--out": out, "--sheet": sheet}, [("CLIP", file)])
    if sheet is not None:
        check_picture_name(sheet)
    clip = read_clip(file)
    width, height = clip.size
    check_output(out, pixels=width * height * len(clip.frames))
    start = frame_at(clip, at)
    chosen = [selection.check(width, height) for selection in selections]
    inspection = clip.judge("follow what is selected", terms)
    cut = grab if look.segmenter is None else segmenter_of(*look.segmenter)
    found = follow_selections(
        clip.frames, start, chosen, segmenter=cut, progress=lambda share: progress("following", 0.9 * share)
    )
    if not all(found.masks(start)[index].any() for index in range(len(chosen))):
        raise MediaError(f"{file}: nothing stands out from its surroundings at the selected place; select it closer")
    if (lost := found.first_lost) is not None and not look.keep_going:
        raise LichtspielError(_lost(clip, found, lost))
    parameters = {
        "segmenter": "grabcut" if look.segmenter is None else [file_sha256(file) for file in look.segmenter],
        "at": at, "objects": len(chosen), "shape": look.shape, "grow": look.grow, "feather": look.feather,
        "size": [width, height], "frames": len(clip.frames),
    }  # fmt: skip
    provenance = provenance_of_clip(
        clip, terms, model="track", source_type="algorithmicMedia", prompt="", parameters=parameters
    )
    sealed = seal(
        even(_film(found, look)), provenance, out, fps=clip.fps, marks=plain_marks(terms.marks),
        timestamp=terms.timestamp,
    )  # fmt: skip
    inspection.remember(sealed, provenance)
    if sheet is not None:
        from lichtspiel.media.sheet import contact_sheet

        picture = contact_sheet(_shown(clip, found)).convert("RGB")
        seal_picture(_pixels(picture), provenance, sheet, marks=plain_marks(terms.marks))
    return _report(sealed, found, clip, start, sheet)


def _film(found: Track, look: Look) -> Iterator[Frame]:
    """The frames of the mask video: the union of all objects."""
    import numpy as np

    from lichtspiel.footage.masks import shaped

    for number in range(found.count):
        levels = [shaped(mask, look.shape, look.grow, look.feather) for mask in found.masks(number)]
        yield np.repeat(np.maximum.reduce(levels)[..., None], 3, axis=2)


def _shown(clip: Clip, found: Track) -> Iterator[Frame]:
    from lichtspiel.footage.masks import overlay
    from lichtspiel.footage.track import LIMIT

    for number, frame in enumerate(clip.frames):
        yield overlay(frame, found.masks(number), number, found.confidence[number], LIMIT)


def _pixels(picture: Any) -> Frame:
    import numpy as np

    return np.asarray(picture)


def _lost(clip: Clip, found: Track, number: int) -> str:
    seconds = float(number / clip.fps)
    return (
        f"from frame {number} ({seconds:.2f} s) on, the object may be lost, confidence {found.confidence[number]:.2f}; "
        "nothing was written. Select it on a frame nearer to that with --at, cut the clip there, or add --keep-going"
    )


def _report(sealed: Sealed, found: Track, clip: Clip, start: int, sheet: Path | None) -> dict[str, Any]:
    low = [number for number, sure in enumerate(found.confidence) if found.is_low(number)]
    return {
        "path": str(sealed.path), "sheet": None if sheet is None else str(sheet), "frames": found.count,
        "fps": float(clip.fps), "size": list(clip.size), "start": start,
        "confidence": [round(sure, 3) for sure in found.confidence], "low": low, "seal": sealed.to_json(),
    }  # fmt: skip
