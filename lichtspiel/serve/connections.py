"""Connections that come to nothing are closed: uvicorn waits for a request's head for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["CONNECTIONS", "HEAD_SECONDS", "PatientProtocol"]

HEAD_SECONDS = 10.0
"""How long the head of a request may take to arrive."""

CONNECTIONS = 500
"""Connections at once; more are answered with 503. Common limits of open files are twice as high."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a limit on the time that the head of a request takes, the first byte of a connection included."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Take bytes; stop waiting once they make a head."""
        super().data_received(data)
        if not self._idle():
            self._stop()
        elif self._timer is None:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
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
