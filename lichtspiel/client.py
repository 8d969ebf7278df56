"""A client for servers of the /v1/videos protocol: ask for a video, wait for it, download it.

The protocol was introduced by OpenAI, whose own service ended on 2026-09-24; vLLM-Omni, SGLang, gateways and
`lichtspiel serve` speak it. This module uses httpx and nothing else of the package but its errors. Fields of a request
that only some servers know, such as `steps`, are passed on as they are; servers refuse what they do not know.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

from lichtspiel.errors import InvalidInput, LichtspielError

try:
    import httpx
except ModuleNotFoundError as error:
    raise InvalidInput(f"{error.name} is not installed; this needs: pip install 'lichtspiel[client]'") from None

__all__ = ["ApiError", "Client", "Video", "VideoFailed"]

Files = Mapping[str, Path | str | Sequence[Path | str]]
"""Uploads by field, one or several each."""

ENDED = frozenset({"completed", "failed", "cancelled"})

AGAIN = frozenset({502, 503, 504})
"""Statuses of a server that is away for a moment."""

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each new attempt."""


class ApiError(LichtspielError):
    """The server refused a request, or could not be reached.

    `status` is the status of the HTTP response, 0 if there was none; `code` and `param` are the server's code and the
    field at fault; `retry_after` is in how many seconds to try again, if the server says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after
        super().__init__(message)


class VideoFailed(LichtspielError):
    """The server could not make the video, or it was cancelled; `video` says why."""

    def __init__(self, video: Video) -> None:
        self.video = video
        reason = (video.error or {}).get("message") or "no reason was given"
        super().__init__(f"{video.id} was cancelled" if video.status == "cancelled" else f"{video.id} failed: {reason}")


@dataclass(frozen=True)
class Video:
    """A video on the server, queued, in progress or ended; `fields` is the object as the server sent it."""

    id: str
    status: str
    progress: float
    fields: Mapping[str, Any] = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.status in ENDED

    @property
    def error(self) -> Mapping[str, Any] | None:
        """Code and message, if it failed."""
        return cast("Mapping[str, Any] | None", self.fields.get("error"))


def _video(fields: Mapping[str, Any]) -> Video:
    return Video(str(fields["id"]), str(fields["status"]), float(fields.get("progress") or 0), fields)


class Client:
    """A connection to the server at `address`, such as http://127.0.0.1:8000, with or without `/v1` at its end.

    `key` is the API key, where the server asks for one. All methods raise ApiError. Close it after use, or use it as a
    context manager.
    """

    def __init__(self, address: str, key: str | None = None, *, timeout: float = 60.0) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        base = address.rstrip("/").removesuffix("/v1") + "/v1"
        self._http = httpx.Client(base_url=base, headers=headers, timeout=timeout, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """The models on offer."""
        return list(self._json("GET", "/models")["data"])

    def create(self, prompt: str, *, files: Files | None = None, **fields: Any) -> Video:
        """Queue a video. `files` are uploads by field, such as `{"input_reference": "first.png"}`."""
        return self._post("/videos", {"prompt": prompt, **fields}, files)

    def edit(
        self, video: str, prompt: str, *, files: Files | None = None,
        **fields: Any,
    ) -> Video:  # fmt: skip
        """Queue an edit of the video with this id."""
        return self._post("/videos/edits", {"prompt": prompt, "video": {"id": video}, **fields}, files)

    def extend(self, video: str, prompt: str, *, seconds: float, **fields: Any) -> Video:
        """Queue a continuation of the video with this id."""
        return self._post(
            "/videos/extensions", {"prompt": prompt, "video": {"id": video}, "seconds": seconds, **fields}
        )

    def remix(self, id: str, prompt: str, **fields: Any) -> Video:
        """Queue the same video with another prompt."""
        return self._post(f"/videos/{quote(id, safe='')}/remix", {"prompt": prompt, **fields})

    def get(self, id: str) -> Video:
        """The video as it is now."""
        return _video(self._json("GET", f"/videos/{quote(id, safe='')}"))

    def videos(self) -> Iterator[Video]:
        """All videos, newest first."""
        after: dict[str, str] = {}
        while True:
            page = self._json("GET", "/videos", params={"limit": 100, **after})
            yield from map(_video, page["data"])
            if not page.get("has_more") or not page["data"]:
                return
            after = {"after": page["data"][-1]["id"]}

    def wait(
        self, video: Video | str, *, told: Callable[[Video], None] = lambda video: None, pause: float = 1.0,
        timeout: float | None = None,
    ) -> Video:  # fmt: skip
        """Wait until a video has ended; `told` is called with each state of it.

        Raises VideoFailed if it was not completed, and TimeoutError after `timeout` seconds.
        """
        id = video if isinstance(video, str) else video.id
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            now = self.get(id)
            told(now)
            if now.status == "completed":
                return now
            if now.ended:
                raise VideoFailed(now)
            if end is not None and time.monotonic() + pause > end:
                raise TimeoutError(f"{id} is still {now.status} after {timeout:g} seconds")
            time.sleep(pause)

    def download(self, id: str, out: Path | str, *, variant: str = "video") -> Path:
        """Save a completed video, or its `thumbnail` or `spritesheet`; the file appears once it is complete."""
        out = Path(out)
        draft = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
        params = {} if variant == "video" else {"variant": variant}
        try:
            with self._http.stream("GET", f"/videos/{quote(id, safe='')}/content", params=params) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                with draft.open("wb") as file:
                    for piece in answer.iter_bytes():
                        file.write(piece)
            os.replace(draft, out)
        except httpx.HTTPError as error:
            raise ApiError(f"{id} could not be downloaded: {error}") from error
        finally:
            draft.unlink(missing_ok=True)
        return out

    def generate(
        self, prompt: str, out: Path | str, *, told: Callable[[Video], None] = lambda video: None, **fields: Any
    ) -> Video:
        """Queue a video, wait for it and save it; see `create`, `wait` and `download`."""
        made = self.wait(self.create(prompt, **fields), told=told)
        self.download(made.id, out)
        return made

    def cancel(self, id: str) -> Video:
        """Stop a video."""
        return _video(self._json("POST", f"/videos/{quote(id, safe='')}/cancel"))

    def delete(self, id: str) -> None:
        """Delete a video from the server."""
        self._json("DELETE", f"/videos/{quote(id, safe='')}")

    def verify(self, file: Path | str) -> dict[str, Any]:
        """What a video or picture proves about its origin, as `lichtspiel serve` tells it."""
        with Path(file).open("rb") as content:
            return self._json("POST", "/verify", files={"file": (Path(file).name, content)})

    def _post(
        self, path: str, fields: Mapping[str, Any],
        files: Files | None = None,
    ) -> Video:  # fmt: skip
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if not files:
            return _video(self._json("POST", path, json=dict(fields), headers=headers))
        # In a form all values are text, and objects are JSON
        data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        with ExitStack() as stack:
            uploads = []
            for name, given in files.items():
                for one in [given] if isinstance(given, str | Path) else given:
                    uploads.append((name, (Path(one).name, stack.enter_context(Path(one).open("rb")))))
            return _video(self._json("POST", path, data=data, files=uploads, headers=headers))

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._send(method, path, **options)
        try:
            body = answer.json()
        except ValueError:
            raise ApiError(f"{answer.url} did not answer with JSON", status=answer.status_code) from None
        if not isinstance(body, dict):
            raise ApiError(f"{answer.url} did not answer with an object", status=answer.status_code)
        return body

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request. What cannot have been received, or only reads, is sent again while the server is away."""
        for pause in (*PAUSES, None):
            try:
                answer = self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                again = method == "GET" or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if pause is None or not again or "files" in options:
                    raise ApiError(f"{self._http.base_url} does not answer: {error}") from error
            else:
                if pause is None or method != "GET" or answer.status_code not in AGAIN:
                    if answer.is_error or answer.is_redirect:
                        raise _error(answer)
                    return answer
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _error(answer: httpx.Response) -> ApiError:
    try:
        said = answer.json()["error"]
        message = str(said["message"])
    except (ValueError, KeyError, TypeError):  # a proxy may answer in its own words
        said, message = {}, f"{answer.status_code} {answer.reason_phrase}"
    after = answer.headers.get("retry-after", "")
    return ApiError(
        message, status=answer.status_code, code=said.get("code"), param=said.get("param"),
        retry_after=float(after) if after.isdecimal() else None,
    )  # fmt: skip
