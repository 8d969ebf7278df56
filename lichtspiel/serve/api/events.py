"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): a job as it changes."""

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
"""Seconds between two looks; a step of a model takes longer."""

QUIET = 15.0
"""After so many seconds without news a comment keeps the connection open."""


async def events(read: Callable[[], dict[str, Any]]) -> AsyncIterator[str]:
    """The object that `read` returns, as an event whenever it changed, until its state is an end or it is gone."""
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
