"""Who made a video, as its content credentials, our watermark, labels and this computer's record say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lichtspiel.seal.verify import verify
from lichtspiel.understand.footage import Finding

if TYPE_CHECKING:
    from lichtspiel.understand.footage import Footage

__all__ = ["Origin"]

AI = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
"""The ends of the source types that say that a model made a video, or a part of it (IPTC digital source types)."""


class Origin:
    """Finds where a video comes from. One finding of the kind "origin" for a video that says something.

    Its text is the verdict, in words. The value "ai" is 1 when the credentials, the watermark or a label say that a
    model made it, and "trusted" is 1 when the signature is. A prompt that this computer recorded is a finding of the
    kind "prompt".
    """

    name = "origin"
    version = "1"

    def missing(self) -> str | None:
        """Nothing: what reads credentials is a part of every installation."""
        return None

    def extract(self, footage: Footage) -> list[Finding]:
        """What the file says of itself."""
        report = verify(footage.path)
        credentials = report.credentials
        end = footage.scan.duration
        made = str(credentials.source_type or "").rpartition("/")[2] in AI
        marked = report.watermark.found or bool(report.labels.aigc)
        findings = []
        if credentials.state != "none" or marked:
            values = {"ai": float(made or marked), "trusted": float(credentials.state == "trusted")}
            findings.append(Finding(0.0, end, "origin", report.verdict, values=values))
        if report.record is not None and report.record.prompt:
            findings.append(Finding(0.0, end, "prompt", report.record.prompt))
        return findings
