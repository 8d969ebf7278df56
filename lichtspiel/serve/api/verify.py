"""The route of the public detector, which verifies files."""

from __future__ import annotations

import shutil
from typing import Any

from fastapi import APIRouter, Request

from lichtspiel.errors import RequestError
from lichtspiel.serve.api.body import FILE, Fields, Uploads, folder, handled
from lichtspiel.serve.api.state import OwnerDep, ServerDep

__all__ = ["router"]

router = APIRouter(tags=["verify"])


@router.post("/v1/verify", openapi_extra=FILE)
async def verify_file(request: Request, server: ServerDep, _owner: OwnerDep) -> dict[str, Any]:
    """Tell what a video or picture proves about its origin. The file is not kept."""

    def work(_: Fields, uploads: Uploads) -> dict[str, Any]:
        if len(uploads.get("file", [])) != 1:
            raise RequestError("file", None, "send one video or picture as file, in multipart")
        with folder() as directory:
            path = directory / "file"
            with path.open("wb") as file:
                shutil.copyfileobj(uploads["file"][0], file)
            report = server.detector.verify(path)
        # The record of this machine (prompts, paths) is not for strangers.
        return {**report, "path": None, "record": None}

    return await handled(request, work)
