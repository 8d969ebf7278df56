"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) about a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from lichtspiel.serve.errors import InvalidKey, NotFound
from lichtspiel.serve.queue.jobs import ENDED

__all__ = ["events"]

PAUSE = 0.5
"""Seconds between two polls; a step of a model takes longer."""

QUIET = 15.0
"""Seconds without an event after which a comment is sent to keep the connection open."""


async def events(read: Callable[[], dict[str, Any]]) -> AsyncIterator[str]:
    """Send the object that `read` returns as an event whenever it changes, until its state is final or it is gone."""
    last, quiet = "", 0.0
    while True:
        try:
            video = await run_in_threadpool(read)
        except (NotFound, InvalidKey):  # deleted, or the key was revoked
            yield "event: deleted\ndata: {}\n\n"
            return
        text = json.dumps(video, ensure_ascii=False)
        if text != last:
            yield f"event: video\ndata: {text}\n\n"
            last, quiet = text, 0.0
        if video["status"] in ENDED:
            return
        await asyncio.sleep(PAUSE)
        quiet += PAUSE
        if quiet >= QUIET:
            yield ": waiting\n\n"
            quiet = 0.0
