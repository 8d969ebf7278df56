"""What this machine can hear, translate and speak, and the line that adds what it cannot."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from lichtspiel.translate import espeak, tongues, voice_activity
from lichtspiel.translate.translators import APERTIUM, apertium_pairs

__all__ = ["inventory"]


def inventory() -> dict[str, list[dict[str, Any]]]:
    """Engines by part. Each has a name as it is typed, whether its program is here, what it can do (or needs), and how
    to add it. Engines with files count as here when their package is; the files are the user's."""
    return {"hear": _hearing(), "translate": _translating(), "speak": _speaking()}


def _entry(name: str, here: bool, what: str, add: str) -> dict[str, Any]:
    return {"name": name, "here": here, "what": what, "add": add}


def _hearing() -> list[dict[str, Any]]:
    here = voice_activity.installed() and find_spec("pocketsphinx") is not None
    return [_entry("pocketsphinx", here, "English", voice_activity.INSTALL)]


def _translating() -> list[dict[str, Any]]:
    pairs = apertium_pairs()
    told = ", ".join(f"{one} to {other}" for one, other, _ in pairs) or "a few pairs, such as en to es and fr to es"
    return [_entry("apertium", bool(pairs), told, APERTIUM)]


def _speaking() -> list[dict[str, Any]]:
    here, spoken = espeak.find_library() is not None, ""
    if here:
        known = sorted(espeak.started().languages)
        spoken = f"{len(known)} languages: {' '.join(code for code in known if code in tongues.NAMES)}"
    return [_entry("espeak", here, spoken or "a hundred languages", espeak.INSTALL)]
