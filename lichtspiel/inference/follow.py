"""What the processes of a team do that do not lead: they denoise what the first one hands out."""

from __future__ import annotations

from collections import deque

from lichtspiel.inference.parallel import Team
from lichtspiel.inference.pipeline import Files, Pipeline, load

__all__ = ["follow"]


def follow(team: Team, weights: Files = None, *, swappable: bool = False) -> None:
    """Denoise with the others, until the leader sends this process home. `weights` are the leader's, and so is whether
    its pipelines are `swappable`."""
    pipeline: Pipeline | None = None
    while (work := team.receive()) is not None:
        request, conditions, start = work
        if pipeline is None or not pipeline.serves(request):
            pipeline = None  # released first, so that two are never in memory at once
            pipeline = load(request, weights, swappable=swappable)
        pipeline.swap(request)
        device = pipeline.device
        steps = pipeline.denoise(conditions.on(device), request, None if start is None else start.to(device))
        deque(steps, maxlen=0)
