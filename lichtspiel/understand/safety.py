"""What may harm: explicit pictures and faces, by the networks of the policy's room, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lichtspiel.policy.rules import count_faces, explicit_scores, looks_at
from lichtspiel.understand.footage import Finding

if TYPE_CHECKING:
    from lichtspiel.understand.footage import Footage

__all__ = ["Faces", "Nudity"]

_EXTRA = 'pip install "lichtspiel[moderation]"'
_BATCH = 8


class Nudity:
    """Scores how explicit stills are, two a second. One finding of the kind "explicit" per still."""

    name = "nudity"
    version = "1 open-nsfw"

    def missing(self) -> str | None:
        """The extra moderation, unless its network is installed."""
        return None if looks_at()["explicit"] else _EXTRA

    def extract(self, footage: Footage) -> list[Finding]:
        """The score of every still, over the time until the next one."""
        scan = footage.scan
        scores: list[float] = []
        for start in range(0, len(scan.stills), _BATCH):
            scores += explicit_scores(scan.stills[start : start + _BATCH]) or []
        edges = [*scan.still_times, max(scan.duration, scan.still_times[-1])]
        return [Finding(edges[n], edges[n + 1], "explicit", score=score) for n, score in enumerate(scores)]


class Faces:
    """Counts faces in the middle of each shot. Findings have the kind "faces" and the value "count"."""

    name = "faces"
    version = "1 libfacedetection"

    def missing(self) -> str | None:
        """The extra moderation, unless its detector is installed."""
        return None if looks_at()["faces"] else _EXTRA

    def extract(self, footage: Footage) -> list[Finding]:
        """The shots that show a face."""
        from lichtspiel.understand.pictures import keyframe

        findings = []
        for shot in footage.shots:
            if count := count_faces(keyframe(footage, shot)):
                findings.append(Finding(shot.start, shot.end, "faces", values={"count": count}))
        return findings
