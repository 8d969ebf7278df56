"""What a worker does for a moderation: judges an existing video, and draws the evidence. It knows no queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lichtspiel.errors import MediaError
from lichtspiel.serve.settings import Settings
from lichtspiel.workflows.moderate import moderate, write_evidence

__all__ = ["judged"]


def judged(
    path: Path, folder: Path, settings: Settings, progress: Callable[[str, float], None]
) -> tuple[dict[str, Any], Path | None]:
    """The result of a moderation as it is stored, and the sheet of evidence, if there is anything to show."""
    began = time.monotonic()
    judgment, made = moderate(
        path, folder, thresholds=settings.thresholds, policy=settings.terms.policy, progress=progress
    )
    sheet, drawn = folder / "sheet.png", False
    progress("drawing the evidence", 0.95)
    with suppress(MediaError):  # the judgment says that the file cannot be read
        drawn = write_evidence(judgment, path, sheet, made=made)
    reasons = [one.to_json() for one in judgment.objections]
    for reason in reasons:
        reason["decision"] = reason["decision"].replace(" ", "_")
        reason["detail"] = reason["detail"].replace(f"{path}: ", "").replace(str(path), "the file")
    result = {
        "decision": judgment.decision.replace(" ", "_"),
        "category": judgment.category,
        "reasons": reasons,
        "checked": list(judgment.checked),
        "sha256": judgment.digest or None,
        "made_by_ai": made,
        "policy": settings.terms.rules_version,
        "timings": {"judge": round(time.monotonic() - began, 3)},
    }
    return result, sheet if drawn else None
