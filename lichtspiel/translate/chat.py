"""A translator behind an OpenAI-compatible chat address, on this machine or elsewhere.

It is the one engine that sends words away, so it is only used where its address was typed. It reads all lines in their
order, with the glossary, and can say a line in fewer words.
"""

from __future__ import annotations

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
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"--translator chat:{url}: is no http or https address")
        model, _, key = (named.choice or "").partition("@")
        self._url = url if parts.path.endswith(_PATH) else url.rstrip("/") + _PATH
        self._model, self._key = model or "default", _key(key) if key else ""
        self.name = f"{self._model} at {parts.hostname}"

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
        raise LichtspielError(f"{self.name} did not answer with {len(batch)} translations; try another model")

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
            raise LichtspielError(f"{self.name} answered with status {error.code}") from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise LichtspielError(f"{self.name} cannot be used: {reason}") from None


def _key(path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"--translator chat: the key in {path} cannot be read: {error}") from None


def _lines(answer: str) -> list[str] | None:
    """The strings of an answer, which may stand in a fence or after thoughts."""
    match = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        lines = json.loads(match[0])["lines"] if match else None
    except (ValueError, LookupError, TypeError):
        return None
    return lines if isinstance(lines, list) and all(isinstance(line, str) for line in lines) else None
