"""Routes for operators: whether the server is alive, whether it is ready, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lichtspiel import __version__
from lichtspiel.serve.api.state import ProberDep, ServerDep
from lichtspiel.serve.errors import StoreError

__all__ = ["router"]

router = APIRouter(tags=["state"])


@router.get("/health")
def health() -> dict[str, str]:
    """Check that the server answers."""
    return {"status": "ok", "version": __version__}


@router.get("/ready")
def ready(server: ServerDep, _: ProberDep) -> JSONResponse:
    """Check whether a worker can take a job now; 503 with the reasons if none can.

    A server that was started without workers is ready if it can reach its data; others make its videos.
    """
    states = [*server.workers.values()]
    reasons: list[str] = []
    if server.settings.devices and not any(state in {"ready", "working"} for state in states):
        reasons = [f"worker {number}: {state}" for number, state in server.workers.items()] or ["no worker"]
    try:
        queue = server.jobs.counts()
    except StoreError as error:
        queue, reasons = None, [error.public, *reasons]
    try:
        server.files.named("probes/r")
    except StoreError as error:
        reasons = [error.public, *reasons]
    body = {"ready": not reasons, "reasons": reasons, "workers": states, "queue": queue}
    return JSONResponse(body, 503 if reasons else 200)


@router.get("/metrics", response_class=Response)
def metrics(server: ServerDep, _: ProberDep) -> Response:
    """Get the server's counts and times in Prometheus' text format."""
    return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)
