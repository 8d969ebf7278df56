"""Several videos of one request: lists of seeds, and file names made from a pattern.

A pattern is a path with `{prompt}`, `{seed}` or `{model}` in its file name.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from lichtspiel.errors import OutputError, RequestError
from lichtspiel.request import MAX_SEED, Request, value_of

__all__ = ["filled", "seeds_from", "seeds_of", "with_seed"]

MAX_SEEDS = 1000
"""The most seeds in a list."""

_PROMPT_BYTES = 80
"""How many bytes of a prompt become part of a file name, which may have 255."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def seeds_of(text: str) -> list[int]:
    """The seeds of a list such as "1-8" or "3,5,10-12". Raises RequestError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last > MAX_SEED:
            raise RequestError("seeds", text, "it is a list of whole numbers and ranges, such as 1-8 or 3,5,10-12")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise RequestError("seeds", text, f"it has at most {MAX_SEEDS:,} seeds")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise RequestError("seeds", text, "it names a seed twice, which would make the same video")
    return seeds


def seeds_from(first: object, count: int) -> list[int]:
    """`count` seeds in a row from the first one, or from a random one if that is None. Raises RequestError."""
    if not 1 <= count <= MAX_SEEDS:
        raise RequestError(
            "count", count, f"it is a whole number from 1 to {MAX_SEEDS:,}", 1 if count < 1 else MAX_SEEDS
        )
    seed: int = secrets.randbelow(2**31) if first is None else value_of("seed", first)
    return list(range(seed, seed + count))


def with_seed(pattern: Path, seeds: Sequence[int]) -> Path:
    """A pattern that gives each of several seeds a name of its own: `cat.mp4` becomes `cat-{seed}.mp4`."""
    if len(seeds) < 2 or "{seed}" in pattern.name:
        return pattern
    return pattern.with_name(f"{pattern.stem}-{{seed}}{pattern.suffix}")


def filled(pattern: Path, request: Request) -> Path:
    """The path that a pattern stands for. Raises OutputError for a placeholder that does not exist."""
    words = {"prompt": _slug(request.prompt), "seed": str(request.seed), "model": request.model}

    def word(match: re.Match[str]) -> str:
        if match[1] not in words:
            names = ", ".join(f"{{{name}}}" for name in words)
            raise OutputError(f"{pattern}: {match[0]} is not filled in; names may hold {names}")
        return words[match[1]]

    return pattern.with_name(_PLACEHOLDER.sub(word, pattern.name))


def _slug(prompt: str) -> str:
    """The words of a prompt as a part of a file name: letters and digits of any script, joined by hyphens."""
    slug = "-".join(re.findall(r"\w+", prompt.lower()))
    return slug.encode()[:_PROMPT_BYTES].decode(errors="ignore").rstrip("-") or "video"
