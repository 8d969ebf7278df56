"""A translator behind an OpenAI-compatible chat address, on this machine or elsewhere.

It is the one engine that sends words away, so it is only used where its address was typed. It reads all lines in their
order, with the glossary, and can say a line in fewer words.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from lichtspiel.errors import InvalidInput, LichtspielError
from lichtspiel.translate import engines, tongues

__all__ = ["Chat"]

_SECONDS = 300.0
_MOST_ANSWER = 4 << 20
_BATCH = 40
_CONTEXT = 4  # lines before a batch that are shown, too
_PATH = "/chat/completions"
_EXAMPLE = "chat:http://127.0.0.1:8000/v1#MODEL"
_REMEDIES = {
    401: "it wants a key: name its file as #MODEL@FILE",
    403: "it refuses the key: name another file as #MODEL@FILE",
    404: "it has no such model, or the address does not end in /v1",
    429: "it has too much to do; try again later",
}
"""What to do about a status."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would carry the words to an address that nobody typed."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, so that urllib reports the status as an error."""
        return


class Chat:
    """`chat:URL#MODEL`. The URL ends in /v1 or /chat/completions. A key is read from the file that
    `chat:URL#MODEL@FILE` names."""

    def __init__(self, named: engines.Named) -> None:
        url = str(named.place)
        self._named, host = str(named), _host(url)
        if host is None:
            raise InvalidInput(f"--translator chat:{url}: is no http or https address; type it as {_EXAMPLE}")
        model, _, key = (named.choice or "").partition("@")
        path = urllib.parse.urlsplit(url).path
        self._url = url if path.endswith(_PATH) else url.rstrip("/") + _PATH
        self._model, self._key = model or "default", _key(key) if key else ""
        self.name = f"{self._model} at {host}"

    def check(self, source: str, target: str) -> None:
        """See Translator: what a model knows is not known before it is asked."""

    def translate(self, texts: Sequence[str], source: str, target: str, terms: dict[str, str]) -> list[str]:
        """See Translator. Lines go there in batches, with those before them as context."""
        done = list[str]()
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            before = [*zip(texts[:start], done, strict=True)][-_CONTEXT:]
            done += self._batch(batch, before, source, target)
        return done

    def shorten(self, text: str, language: str, share: float) -> str | None:
        """See Translator."""
        most = max(int(len(text) * share), 8)
        said = self._ask(
            f"Say this {tongues.name_of(language)} sentence in at most {most} characters, keeping its meaning, names "
            f"and numbers. Answer with the sentence alone.\n\n{text}"
        )
        shorter = said.strip().strip('"').replace("\n", " ")
        return shorter if 0 < len(shorter) < len(text) else None

    def _batch(self, batch: Sequence[str], before: Sequence[tuple[str, str]], source: str, target: str) -> list[str]:
        said = "".join(f"{old} => {new}\n" for old, new in before)
        context = f"What was said before, and how it was translated:\n{said}\n" if said else ""
        asked = (
            f"Translate the lines of a film from {tongues.name_of(source)} to {tongues.name_of(target)}. They belong "
            "together. Words such as Xqaq stay as they are. Keep every translation about as long to say as its line. "
            f'Answer with JSON alone: {{"lines": [...]}}, {len(batch)} strings in the same order.\n\n{context}'
            f"{json.dumps({'lines': list(batch)}, ensure_ascii=False)}"
        )
        for _ in range(2):
            lines = _lines(self._ask(asked))
            if lines is not None and len(lines) == len(batch):
                return lines
        said = f"did not answer with {len(batch)} translations; name another model after the #"
        raise LichtspielError(f"--translator {self._named}: {said}")

    def _ask(self, text: str) -> str:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "stream": False,
        }
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
        try:
            with opener.open(request, timeout=_SECONDS) as response:
                answer = json.loads(response.read(_MOST_ANSWER))
            return str(answer["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            remedy = _REMEDIES.get(error.code, "look into its log, or try again later")
            raise LichtspielError(f"--translator {self._named}: answered with status {error.code}; {remedy}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            remedy = f"start the server, or type its address as {_EXAMPLE}"
            raise LichtspielError(f"--translator {self._named}: cannot be reached ({said}); {remedy}") from None
        except (ValueError, LookupError, TypeError):
            rule = f"it is no OpenAI-compatible chat; type its address as {_EXAMPLE}"
            raise LichtspielError(f"--translator {self._named}: answered with something else; {rule}") from None


def _host(url: str) -> str | None:
    """The host of an address; None for what is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # raises for one that is no number, or too large
    except ValueError:
        return None
    plain = all("!" <= letter <= "~" for letter in url)
    plain = plain and parts.username is None  # a password would stand in messages and records
    return parts.hostname if plain and parts.scheme in ("http", "https") else None


def _key(path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            key = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInput(
            f"--translator chat: the key in {path} cannot be read: {reason}; name its file as {_EXAMPLE}@FILE"
        ) from None
    if not key or not all("!" <= letter <= "~" for letter in key):
        raise InvalidInput(f"--translator chat: {path} holds no key; it is one line of letters and digits")
    return key


def _lines(answer: str) -> list[str] | None:
    """The strings of an answer, which may stand in a fence or after thoughts."""
    match = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        lines = json.loads(match[0])["lines"] if match else None
    except (ValueError, LookupError, TypeError):
        return None
    return lines if isinstance(lines, list) and all(isinstance(line, str) for line in lines) else None
