"""A limit on the time that the head of a request may take to arrive. uvicorn by itself would wait forever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["CONNECTIONS", "HEAD_SECONDS", "PatientProtocol"]

HEAD_SECONDS = 10.0
"""How long the head of a request may take to arrive."""

CONNECTIONS = 500
"""How many connections may be open at once; any more get a 503. Common limits on open files are twice this."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection if the head of a request, or its first byte, takes too long to arrive."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer for the first head."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Process bytes; stop the timer once the head is complete."""
        super().data_received(data)
        if not self._idle():
            self._stop()
        elif self._timer is None:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop()
        super().connection_lost(exc)

    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _start(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._expire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self._idle():
            self.transport.close()
