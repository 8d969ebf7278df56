"""The endpoints for everything but videos: models, the public detector, and the state of the server."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lichtspiel import __version__
from lichtspiel.errors import RequestError
from lichtspiel.seal import verify
from lichtspiel.serve.api.body import FILE, Fields, Uploads, folder, handled
from lichtspiel.serve.api.objects import model_object
from lichtspiel.serve.api.state import Here
from lichtspiel.spec import model as find

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/models", tags=["models"])
def models(server: Here) -> dict[str, Any]:
    """What this server makes videos with."""
    states = [*server.workers.values()]
    return {"object": "list", "data": [model_object(find(name), states) for name in server.settings.models]}


@router.get("/v1/models/{name}", tags=["models"])
def one_model(name: str, server: Here) -> dict[str, Any]:
    """One model."""
    if name not in server.settings.models:
        raise RequestError("model", name, f"this server has {', '.join(server.settings.models)}")
    return model_object(find(name), [*server.workers.values()])


@router.post("/v1/verify", tags=["verify"], openapi_extra=FILE)
async def check(request: Request) -> dict[str, Any]:
    """What a video or picture proves about itself. Anybody may ask; nothing is kept."""

    def work(_: Fields, uploads: Uploads) -> dict[str, Any]:
        if len(uploads.get("file", [])) != 1:
            raise RequestError("file", None, "send one video or picture as file, in multipart")
        with folder() as place:
            path = place / "file"
            path.write_bytes(uploads["file"][0].read())
            said = verify(path).to_json()
        # What this machine remembers of it (prompts, paths) is not for strangers.
        return {**said, "path": None, "record": None}

    return await handled(request, work)


@router.get("/health", tags=["state"])
def health() -> dict[str, str]:
    """That the server runs."""
    return {"status": "ok", "version": __version__}


@router.get("/ready", tags=["state"])
def ready(server: Here) -> JSONResponse:
    """Whether there is a worker that can take a job now, and what they do."""
    states = [*server.workers.values()]
    fine = any(state in {"ready", "working"} for state in states)
    reasons = [] if fine else [f"worker {number}: {state}" for number, state in server.workers.items()] or ["no worker"]
    said = {"ready": fine, "reasons": reasons, "workers": states, "queue": server.jobs.counts()}
    return JSONResponse(said, 200 if fine else 503)


@router.get("/metrics", tags=["state"], response_class=Response)
def metrics(server: Here) -> Response:
    """Counts and times for Prometheus."""
    return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)
