"""Make a control film of a clip and seal it: drawn by a program, from the clip that it names as its parent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import MediaError, RequestError
from lichtspiel.seal import check_output, seal
from lichtspiel.storage import file_sha256
from lichtspiel.workflows.clips import Clip, even, frame_at, plain_marks, provenance_of_clip, read_clip
from lichtspiel.workflows.outputs import check_distinct
from lichtspiel.workflows.terms import Terms

if TYPE_CHECKING:
    from lichtspiel.footage.controls import Kind
    from lichtspiel.footage.selection import Selection
    from lichtspiel.frames import Frame

__all__ = ["make_control"]


def make_control(
    file: Path,
    out: Path,
    kind: Kind | Literal["boxes", "depth", "pose"],
    terms: Terms | None = None,
    *,
    network: Path | None = None,
    selections: Sequence[Selection] = (),
    at: float = 0.0,
) -> dict[str, Any]:
    """Write the control film of a clip, of its size, frame rate and length.

    "boxes" draws the layout of the objects that are selected on the frame shown after `at` seconds; "depth" and "pose"
    are seen by the `network` in an ONNX file. Raises RequestError for what a kind lacks or has no use for, MediaError
    and Refused.
    """
    terms = terms or Terms()
    _check_kind(kind, network, selections)
    check_distinct({"--out": out}, [("CLIP", file), *([] if network is None else [("--network", network)])])
    clip = read_clip(file)
    start = frame_at(clip, at)
    chosen = [selection.check(*clip.size) for selection in selections]
    if kind == "flow" and len(clip.frames) < 2:
        raise MediaError(f"{file}: has one frame, and motion needs two; take another --kind")
    check_output(out, pixels=clip.size[0] * clip.size[1] * len(clip.frames))
    inspection = clip.judge("a drawing of this clip", terms)
    provenance = provenance_of_clip(
        clip, terms, model=kind, source_type="algorithmicMedia", prompt="",
        parameters={
            "control": kind, "size": list(clip.size), "frames": len(clip.frames),
            **({} if network is None else {"network": file_sha256(network)}),
        },
    )  # fmt: skip
    film = even(_film(clip, kind, network, chosen, start))
    sealed = seal(
        inspection.watch(film, float(clip.fps)), provenance, out, fps=clip.fps,
        marks=plain_marks(terms.marks), timestamp=terms.timestamp,
    )  # fmt: skip
    inspection.remember(sealed, provenance)
    return {
        "path": str(sealed.path), "kind": kind, "frames": len(clip.frames), "fps": float(clip.fps),
        "size": list(clip.size), "seal": sealed.to_json(),
    }  # fmt: skip


def _check_kind(kind: str, network: Path | None, selections: Sequence[Selection]) -> None:
    seen = kind in {"depth", "pose"}
    if seen and network is None:
        raise RequestError("network", None, f"{kind} is seen by a network of yours: name its ONNX file")
    if network is not None and not seen:
        raise RequestError("network", str(network), f"{kind} is drawn without one: drop it")
    if kind == "boxes" and not selections:
        raise RequestError("box", None, "say what the layout shows: a box LEFT,TOP,RIGHT,BOTTOM around each object")
    if selections and kind != "boxes":
        raise RequestError("box", True, f"{kind} is drawn of the whole frame: drop it")


def _film(clip: Clip, kind: Any, network: Path | None, selections: Sequence[Selection], start: int) -> Iterator[Frame]:
    if network is not None:
        from lichtspiel.workflows.plugs import depth_film, pose_film

        return depth_film(clip.frames, network) if kind == "depth" else pose_film(clip.frames, network)
    from lichtspiel.footage.controls import boxes, control

    if kind == "boxes":
        from lichtspiel.footage.track import follow_selections

        return boxes(follow_selections(clip.frames, start, selections))
    return control(clip.frames, kind)
