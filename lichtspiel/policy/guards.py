"""Guards, which judge prompts after the built-in rules; one that asks an OpenAI-compatible endpoint is here.

This module knows HTTP and the answers of three kinds of endpoint, and nothing of the rules. It fails closed: a guard
that cannot be reached, takes too long or answers anything but a clear "safe" refuses, with the category "unchecked" and
the reason. Neither the prompt nor the key ever appears in a verdict.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Protocol

from lichtspiel.errors import InvalidInput
from lichtspiel.policy.verdict import Verdict

__all__ = ["Guard", "HttpGuard"]

_MAX_ANSWER = 64 << 10
_MODERATIONS, _CHAT = "/moderations", "/chat/completions"


class Guard(Protocol):
    """Anything that judges a prompt. An exception counts as a refusal."""

    def judge(self, text: str) -> Verdict:
        """The guard's verdict on `text`."""
        ...


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would carry the prompt and the key to an address that nobody configured."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing; urllib then reports the status as an error."""
        return


@dataclass(frozen=True, kw_only=True)
class HttpGuard:
    """A guard behind an OpenAI-compatible endpoint, for example vLLM on the same machine.

    `url` is the full address. If it ends in /chat/completions, `model` answers as Qwen3Guard does ("Safety: Safe") or
    as Llama Guard does ("safe"); if it ends in /moderations, the answer has `flagged` and `categories`. Qwen3Guard's
    "Controversial" is taken as unsafe. `timeout` bounds the whole exchange, in seconds, to within one network wait.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 10.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"guard: {self.url!r} is no http or https address")
        if not parts.path.endswith((_MODERATIONS, _CHAT)):
            raise InvalidInput(
                f"guard: {self.url!r} ends neither in {_CHAT} nor in {_MODERATIONS}; give the full address"
            )

    def judge(self, text: str) -> Verdict:
        """Ask the endpoint about `text`; any failure is a refusal."""
        try:
            answer = json.loads(self._ask(text))
            if self._moderates:
                return _moderation_verdict(answer["results"][0])
            return _chat_verdict(answer["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            return _refusal("guard.unreachable", f"answered with status {error.code}")
        except TimeoutError:
            return _refusal("guard.unreachable", f"did not answer within {self.timeout:g} seconds")
        except OSError as error:  # URLError is one
            reason = getattr(error, "reason", None)
            return _refusal("guard.unreachable", f"cannot be reached: {reason or type(error).__name__}")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            return _refusal("guard.unreadable", f"gave an answer that cannot be read ({type(error).__name__})")
        except Exception as error:  # http.client has errors of its own family
            return _refusal("guard.unreachable", f"broke off: {type(error).__name__}")

    @property
    def _moderates(self) -> bool:
        return urllib.parse.urlsplit(self.url).path.endswith(_MODERATIONS)

    def _ask(self, text: str) -> bytes:
        body: dict[str, Any] = {"model": self.model}
        if self._moderates:
            body["input"] = text
        else:
            body |= {
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": 64,
                "stream": False,
            }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        # No proxy from the environment: prompts go where the operator configured, and nowhere else.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
        deadline = time.monotonic() + self.timeout
        answer = b""
        with opener.open(request, timeout=self.timeout) as response:
            while chunk := response.read1(_MAX_ANSWER):
                answer += chunk
                if len(answer) > _MAX_ANSWER:
                    raise ValueError("too long")
                if time.monotonic() > deadline:
                    raise TimeoutError
        return answer


def _moderation_verdict(result: dict[str, Any]) -> Verdict:
    flagged = result["flagged"]
    if not isinstance(flagged, bool):
        raise TypeError
    if not flagged:
        return Verdict("allowed", "none", "guard.safe", "the guard calls it safe")
    named = sorted(name for name, hit in dict(result.get("categories") or {}).items() if hit is True)
    return _unsafe(", ".join(named))


def _chat_verdict(content: str) -> Verdict:
    """Read the answer of Qwen3Guard-Gen or Llama Guard; only the first line decides."""
    lines = [line.strip() for line in content.strip().splitlines() if line.strip()]
    word = lines[0].lower().removeprefix("safety:").strip()
    rest = " ".join(lines[1:]).removeprefix("Categories:").strip()
    if word == "safe":
        return Verdict("allowed", "none", "guard.safe", "the guard calls it safe")
    if word in ("unsafe", "controversial"):
        return _unsafe(rest)
    raise ValueError


def _unsafe(categories: str) -> Verdict:
    # People see this text, which a stranger's server wrote: keep a few plain words of it.
    shown = re.sub(r"[^\w ,/&-]", "", categories)[:80].strip() or "unsafe"
    return Verdict("refused", shown.lower(), "guard.unsafe", f"the guard calls it unsafe: {shown}")


def _refusal(rule: str, reason: str) -> Verdict:
    return Verdict("refused", "unchecked", rule, f"the guard {reason}; nothing is made unchecked")
