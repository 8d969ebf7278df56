"""Guards, which judge prompts after the built-in rules, and one that queries an OpenAI-compatible endpoint.

This module knows HTTP and the response formats of three kinds of endpoint; it does not know the rules. It fails closed:
a guard that cannot be reached, takes too long or answers anything but a clear "safe" refuses, with the category
"unchecked" and the reason. Neither the prompt nor the key ever appears in a verdict.
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
        """Return None, so that urllib reports the status as an error."""
        return


@dataclass(frozen=True, kw_only=True)
class HttpGuard:
    """A guard behind an OpenAI-compatible endpoint, for example vLLM on the same machine.

    `url` is the full URL. If it ends in /chat/completions, `model` must answer like Qwen3Guard ("Safety: Safe") or
    Llama Guard ("safe"). If it ends in /moderations, the response has `flagged` and `categories`. Qwen3Guard's
    "Controversial" counts as unsafe. `timeout` limits the whole exchange, in seconds; one network wait may overrun it.
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
        """Send `text` to the endpoint; any failure counts as a refusal."""
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
        except Exception as error:  # http.client's exceptions are not OSErrors
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
        # Ignore proxies from the environment: prompts go only where the operator configured.
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
    """Parse the response of Qwen3Guard-Gen or Llama Guard; only the first line decides."""
    lines = [line.strip() for line in content.strip().splitlines() if line.strip()]
    word = lines[0].lower().removeprefix("safety:").strip()
    rest = " ".join(lines[1:]).removeprefix("Categories:").strip()
    if word == "safe":
        return Verdict("allowed", "none", "guard.safe", "the guard calls it safe")
    if word in ("unsafe", "controversial"):
        return _unsafe(rest)
    raise ValueError


def _unsafe(categories: str) -> Verdict:
    # Users see this text, and it comes from an untrusted server: keep only a few plain words.
    shown = re.sub(r"[^\w ,/&-]", "", categories)[:80].strip() or "unsafe"
    return Verdict("refused", shown.lower(), "guard.unsafe", f"the guard calls it unsafe: {shown}")


def _refusal(rule: str, reason: str) -> Verdict:
    return Verdict("refused", "unchecked", rule, f"the guard {reason}; nothing is made unchecked")
