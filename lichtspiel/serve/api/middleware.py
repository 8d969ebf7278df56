"""Security middleware: limits on body size and time, checks of Host and Origin, and security headers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lichtspiel.serve.api.objects import error_body
from lichtspiel.serve.settings import Settings

__all__ = ["SecurityMiddleware"]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self'; script-src 'self'; "
        "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

LOCAL = {"localhost", "127.0.0.1", "::1"}


BODY_SECONDS, SLOWEST = 60.0, 10_000
"""How many seconds a body may take to arrive, plus one second for every `SLOWEST` bytes."""


OWN_HEAD = ("/content", "/preview", "/events")
"""How paths end that answer HEAD themselves, because they need not read their content for it, or never end."""


class _TooSlow(Exception):
    """The body takes too long to arrive."""


class _TooMuch(Exception):
    """The body is larger than allowed."""


class SecurityMiddleware:
    """ASGI middleware around the application.

    A server on loopback needs no key, so other websites must not be able to use it through somebody's browser.
    Requests with a foreign `Host` (DNS rebinding) or a foreign `Origin` are refused.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if scope["method"] == "HEAD" and not scope["path"].endswith(OWN_HEAD):
            scope, send = {**scope, "method": "GET"}, _without_content(send)
        came, began, whole, start = 0, False, False, time.monotonic()

        async def counted() -> Message:
            nonlocal came, whole
            if whole:  # the only message still to come is the disconnect
                return await receive()
            left = BODY_SECONDS + came / SLOWEST - (time.monotonic() - start)
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.1))
            except TimeoutError:
                raise _TooSlow from None
            whole = not message.get("more_body", False)
            came += len(message.get("body", b""))
            if came > self.settings.body_limit:
                raise _TooMuch
            return message

        async def headed(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message["headers"] = [*message["headers"], *_encoded(HEADERS.items())]
            await send(message)

        try:
            await self.app(scope, counted, headed)
        except _TooMuch:
            if not began:
                await _answer(send, 413, self._too_large(), "too_large")
        except _TooSlow:
            if not began:
                await _answer(send, 408, "the request's body came too slowly; send it again", "too_slow")

    def _refusal(self, headers: dict[str, str]) -> tuple[int, str, str] | None:
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.settings.body_limit:
            return 413, self._too_large(), "too_large"
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc != host
        except ValueError:
            return 400, "the Host or Origin of the request is not an address", "invalid_request"
        hosts = {*LOCAL, self.settings.host}
        if self.settings.loopback and not self.settings.require_key and name not in hosts:
            return 403, f"this server answers on {', '.join(sorted(hosts))} only, not as {name!r}", "invalid_request"
        if foreign:
            return 403, f"pages of {origin} may not use this server", "invalid_request"
        return None

    def _too_large(self) -> str:
        return f"a request has at most {self.settings.body_limit:,} bytes; send smaller files"


def _without_content(send: Send) -> Send:
    """What sends the answer to a GET as the one to a HEAD: the same without its content (RFC 9110, 9.3.2)."""

    async def head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return head


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers]


async def _answer(send: Send, status: int, message: str, code: str) -> None:
    body = json.dumps(error_body(message, code, status)).encode()
    length = [("content-type", "application/json"), ("content-length", str(len(body)))]
    headers = _encoded([*length, *HEADERS.items()])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
