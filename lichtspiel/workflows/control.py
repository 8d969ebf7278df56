"""Make a control film of a clip and seal it: drawn by a program, from the clip that it names as its parent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import MediaError
from lichtspiel.seal import check_output, seal
from lichtspiel.workflows.clips import even, plain_marks, provenance_of_clip, read_clip
from lichtspiel.workflows.outputs import check_distinct
from lichtspiel.workflows.terms import Terms

if TYPE_CHECKING:
    from lichtspiel.footage.controls import Kind

__all__ = ["make_control"]


def make_control(file: Path, out: Path, kind: Kind, terms: Terms | None = None) -> dict[str, Any]:
    """Write the control film of a clip, of its size, frame rate and length. Raises MediaError and Refused."""
    from lichtspiel.footage.controls import control

    terms = terms or Terms()
    check_distinct({"--out": out}, [("CLIP", file)])
    clip = read_clip(file)
    if kind == "flow" and len(clip.frames) < 2:
        raise MediaError(f"{file}: has one frame, and motion needs two; take another --kind")
    check_output(out, pixels=clip.size[0] * clip.size[1] * len(clip.frames))
    inspection = clip.judge("a drawing of this clip", terms)
    provenance = provenance_of_clip(
        clip, terms, model=kind, source_type="algorithmicMedia", prompt="",
        parameters={"control": kind, "size": list(clip.size), "frames": len(clip.frames)},
    )  # fmt: skip
    sealed = seal(
        inspection.watch(even(control(clip.frames, kind)), float(clip.fps)), provenance, out, fps=clip.fps,
        marks=plain_marks(terms.marks), timestamp=terms.timestamp,
    )  # fmt: skip
    inspection.remember(sealed, provenance)
    return {
        "path": str(sealed.path), "kind": kind, "frames": len(clip.frames), "fps": float(clip.fps),
        "size": list(clip.size), "seal": sealed.to_json(),
    }  # fmt: skip
