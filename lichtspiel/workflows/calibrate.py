"""Measure, in one ordinary run, how far a checkpoint may reuse what its blocks added: the curve for MagCache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lichtspiel.inference.magcache import Curve, Recorder, curve_path, to_json
from lichtspiel.inference.pipeline import Files, load
from lichtspiel.request import Request
from lichtspiel.storage import atomic_write

__all__ = ["calibrate"]

THRESHOLD, LONGEST, KEEP = 0.12, 4, 0.2
"""The published setting of Wan2.1's smallest checkpoint, for checkpoints that have none."""


def calibrate(
    request: Request, *, weights: Files = None, progress: Callable[[int, int], None] = lambda step, steps: None
) -> tuple[Path, Curve]:
    """Run a request without making a video, and keep the curve where `--magcache auto` finds it for these weights.

    Both branches of guidance are measured. Returns the file and the curve. Raises RequestError for a request that
    itself reuses steps or has too few of them, and what `load` and the stages raise.
    """
    request = request.model_copy(update={"magcache": "off", "guidance_interval": "0-1", "guidance_gate": 1.0})
    pipeline, recorder = load(request, weights), Recorder()
    for step in pipeline.denoise(pipeline.encode(request), request, recorder=recorder):
        progress(step.index, step.total)
    curve = recorder.curve(pipeline.checkpoint.fingerprints()["dit"], THRESHOLD, LONGEST, KEEP)
    path = curve_path(request.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft:
        draft.write_text(to_json(curve), encoding="utf-8")
    return path, curve
