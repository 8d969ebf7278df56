"""The FastAPI application: endpoints, middleware, error handlers and the page.

It imports no torch and loads no weights: it only writes jobs to the queue and reads them from there. Workers do the
rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lichtspiel import __version__
from lichtspiel.errors import LichtspielError, Refused
from lichtspiel.serve.api import health, masks, models, moderations, translations, verify, videos
from lichtspiel.serve.api.metrics import TimingMiddleware
from lichtspiel.serve.api.middleware import SecurityMiddleware
from lichtspiel.serve.api.objects import error_body, error_response
from lichtspiel.serve.api.schemas import ERRORS
from lichtspiel.serve.api.state import Server

__all__ = ["create_app"]

PAGE = Path(__file__).parent.parent / "page"

ABOUT = """Make videos from words, pictures and videos, follow the work, and check what a video proves about its origin.

The routes below /v1/videos are those of the protocol that OpenAI introduced, whose own service ended on 2026-09-24, and
some more. A request is a job in a queue: it is queued, in_progress, completed, failed or cancelled. Errors are
`{"error": {message, type, param, code}}`.
"""

FRESH = {"Cache-Control": "no-cache"}
"""Makes browsers revalidate files, so that they never mix files of two versions."""


class Page(StaticFiles):
    """The files of the page."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        """A file, with the header that makes browsers revalidate it."""
        response = super().file_response(*args, **more)
        response.headers.update(FRESH)
        return response


def create_app(server: Server) -> FastAPI:
    """Create the application for `server`."""
    app = FastAPI(title="Lichtspiel", version=__version__, description=ABOUT, docs_url=None, redoc_url=None)
    app.add_middleware(SecurityMiddleware, settings=server.settings)
    app.add_middleware(TimingMiddleware, metrics=server.metrics, tracing=server.tracing)
    _answer_errors(app)
    app.state.server = server
    # The first ones have paths that begin as those of videos do.
    for routes in (moderations, translations, videos, masks, models, verify, health):
        app.include_router(routes.router, responses=ERRORS)
    app.mount("/page", Page(directory=PAGE), name="page")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=FRESH)

    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(LichtspielError)
    async def ours(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, Refused):
            app.state.server.metrics.refusals.labels(error.rule).inc()
        status, body = error_response(cast("LichtspielError", error))
        retry = getattr(error, "retry_after", None)
        return JSONResponse(body, status, headers={"Retry-After": str(int(retry))} if retry else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> JSONResponse:
        problem = cast("RequestValidationError", error).errors()[0]
        param = str(problem["loc"][-1])
        return JSONResponse(error_body(f"{param}: {problem['msg']}", "invalid_request", 400, param), 400)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:  # the traceback goes to the log, not to clients
        return JSONResponse(error_body(f"an error of the server: {type(error).__name__}", "failed", 500), 500)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: Exception) -> JSONResponse:
        problem = cast("HTTPException", error)
        code = {404: "not_found", 413: "too_large"}.get(problem.status_code, "invalid_request")
        body = error_body(str(problem.detail), code, problem.status_code)
        return JSONResponse(body, problem.status_code, headers=problem.headers)
