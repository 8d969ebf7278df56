"""The route of masks for edits: to be looked at before the job is sent."""

from __future__ import annotations

import base64
import shutil
from typing import Any

from fastapi import APIRouter, Request

from lichtspiel.errors import RequestError
from lichtspiel.media.video import video_info
from lichtspiel.serve.api.body import MASK, Fields, Uploads, folder, handled
from lichtspiel.serve.api.sources import check_video, with_files
from lichtspiel.serve.api.state import OwnerDep, ServerDep

__all__ = ["router"]

router = APIRouter(tags=["videos"])

MAX_PIXELS = 1920 * 1088 * 300
"""How large a clip may be in which something is followed, over all frames."""


@router.post("/v1/videos/masks", openapi_extra=MASK)
async def make_mask(request: Request, server: ServerDep, owner: OwnerDep) -> dict[str, Any]:
    """Follow what is in a box on one frame of a video through all of it. Returns the mask as an MP4 in base64, white
    where the object is, with a confidence for each frame. Nothing is kept; send the mask with an edit."""

    def work(fields: Fields, uploads: Uploads) -> dict[str, Any]:
        with folder() as directory:
            with_files(server, owner, fields, uploads)
            check_video(fields, uploads, "follow an object in")
            box, at = _box(fields.pop("box", None)), _seconds(fields.pop("at", 0))
            consent = fields.pop("consent", None)
            if fields:
                raise RequestError(next(iter(fields)), "", "a mask is asked for by video, box, at and consent")
            path = directory / "video.mp4"
            with path.open("wb") as file:
                shutil.copyfileobj(uploads["video"][0], file)
            info = video_info(path)
            if (pixels := info.width * info.height * info.frames) > MAX_PIXELS:
                rule = f"at most {MAX_PIXELS / 1e6:,.0f} million pixels in all can be followed; cut or reduce it"
                raise RequestError("video", f"{pixels / 1e6:,.0f} million pixels", rule)
            report = server.tracker.track(path, box, at, consent)
        names = ("frames", "fps", "size", "start", "confidence", "low")
        told = {name: report[name] for name in names}
        return {"object": "video.mask", **told, "mask": base64.b64encode(report["mask"]).decode()}

    return await handled(request, work)


def _box(value: Any) -> str:
    """A box as it is typed. Raises RequestError."""
    parts = [str(part).strip() for part in (value if isinstance(value, list) else str(value).split(","))]
    if len(parts) != 4 or not all(part.removeprefix("-").isdecimal() and len(part) < 7 for part in parts):
        raise RequestError("box", value, "it is LEFT,TOP,RIGHT,BOTTOM in pixels, such as 120,40,300,220")
    return ",".join(parts)


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < 86_400:
        raise RequestError("at", value, "it is the second at which the frame with the box is shown", 0)
    return seconds
