"""Captions for shots: given ones, those of a vision model behind an OpenAI-compatible endpoint, or what is known.

This module knows HTTP and one response format. What the index knows makes a plain sentence, never an invented one.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import InvalidInput, LichtspielError

if TYPE_CHECKING:
    from lichtspiel.understand.curation import Candidate
    from lichtspiel.understand.store import Index

__all__ = ["Endpoint", "captioner"]

_ASK = "Describe this video frame in one plain sentence for training a video model: subject, action, place, light."
_MAX_ANSWER = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible endpoint, its full URL ending in /chat/completions, with a model that sees pictures."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not self.url.endswith("/chat/completions"):
            raise InvalidInput(
                f"--caption-url {self.url} is no address that ends in /chat/completions; give the full one"
            )

    def caption(self, picture: bytes) -> str:
        """One sentence about a JPEG picture. Raises LichtspielError when the endpoint does not answer with one."""
        image = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        content = [{"type": "text", "text": _ASK}, {"type": "image_url", "image_url": {"url": image}}]
        body: dict[str, Any] = {
            "model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0,
            "max_tokens": 128, "stream": False,
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # pictures go only where was said
        try:
            with opener.open(request, timeout=self.timeout) as response:
                answer = json.loads(response.read(_MAX_ANSWER))
            text = " ".join(str(answer["choices"][0]["message"]["content"]).split())
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise LichtspielError(f"{self.url}: gave no caption: {error}; nothing more was written") from error
        if not text:
            raise LichtspielError(f"{self.url}: gave an empty caption; try another model with --caption-model")
        return text


def captioner(index: Index, endpoint: Endpoint | None) -> Callable[[Candidate], str]:
    """How a shot gets its caption: the one that it has, else the endpoint's, else what the index knows of it."""

    def caption(one: Candidate) -> str:
        if one.caption:
            return one.caption
        if endpoint is not None:
            return endpoint.caption(one.picture)
        findings = index.finding_rows(one.digest, "label", "text", "speech")
        here = [f for f in findings if f.text and min(f.end, one.end) > max(f.start, one.start)]
        parts = [
            ", ".join(f.text for f in here if f.kind == "label"),
            *(f'the words "{f.text}"' for f in here if f.kind == "text"),
            *(f'somebody says "{f.text}"' for f in here if f.kind == "speech"),
        ]
        return ", ".join(filter(None, parts))

    return caption
