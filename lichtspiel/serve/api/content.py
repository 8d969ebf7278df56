"""Files over HTTP: whole or as a single range, with an ETag for conditional requests (RFC 9110)."""

from __future__ import annotations

import mimetypes
import re

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from lichtspiel.serve.queue.storage import Files

__all__ = ["content"]


def content(files: Files, name: str, digest: str, request: Request, *, download: str | None = None) -> Response:
    """The response to a request for a stored file with this digest.

    `download` is the name under which browsers save the file. The response to HEAD has no content.
    """
    etag, headers = f'"{digest}"', request.headers
    answer_headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if download is not None:
        answer_headers["Content-Disposition"] = f'inline; filename="{download}"'
    current = headers.get("if-none-match", "")
    if current.strip() == "*" or etag in re.findall(r'"[^"]*"', current):
        return Response(status_code=304, headers=answer_headers)
    size = files.size(name)
    span = _span(headers.get("range", ""), size)
    if headers.get("if-range", etag) != etag:
        span = None
    if span is not None and span[0] >= span[1]:
        return Response(status_code=416, headers={**answer_headers, "Content-Range": f"bytes */{size}"})
    start, end = span or (0, size)
    answer_headers["Content-Length"] = str(end - start)
    if span is not None:
        answer_headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if request.method == "HEAD":
        return Response(status_code=200 if span is None else 206, media_type=kind, headers=answer_headers)
    return StreamingResponse(
        files.read(name, start, end), 200 if span is None else 206, media_type=kind, headers=answer_headers
    )


def _span(header: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last; None for no range or for an invalid one, which is ignored."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):  # not a range by RFC 9110, 14.1.1
        return None
    return int(first), min(int(last) + 1, size) if last else size
