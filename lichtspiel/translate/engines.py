"""How an engine is named: "espeak", "whisper:models/small", "chat:http://127.0.0.1:8000/v1#qwen".

What stands before the colon is the kind, what follows is the user's file, folder or address, and after a # comes a
choice inside it, such as a voice or a model.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lichtspiel.errors import InvalidInput

__all__ = ["Named", "existing", "needs", "parse"]


@dataclass(frozen=True)
class Named:
    """An engine as it was typed: its kind, the place of its files (None without one), and a choice inside them."""

    field: str
    kind: str
    place: str | None
    choice: str | None

    def __str__(self) -> str:
        return self.kind if self.place is None else f"{self.kind}:{self.place}"


def parse(field: str, text: str, kinds: Iterable[str], placeless: Iterable[str] = ()) -> Named:
    """Read the name of an engine. The `placeless` ones need no file; after their colon comes a choice at once. Raises
    InvalidInput for kinds that do not exist and for places that are missing."""
    known, without = [*kinds], {*placeless}
    kind, _, rest = text.partition(":")
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        shown = ", ".join(name if name in without else f"{name}:PATH" for name in known)
        raise InvalidInput(f"{field} {text[:60]!r} is not known{hint} Engines are: {shown}")
    if kind in without:
        return Named(field, kind, None, rest or None)
    place, _, choice = rest.partition("#")
    if not place:
        raise InvalidInput(f"{field} {kind} needs its files: {field} {kind}:PATH")
    return Named(field, kind, place, choice or None)


def existing(named: Named, wanted: str, *, names: Iterable[str] = ()) -> Path:
    """The file or folder of an engine. Raises InvalidInput where it is missing, or lacks one of the files `names`;
    `wanted` says what belongs there."""
    path = Path(str(named.place)).expanduser()
    if not path.exists():
        raise InvalidInput(f"{named.field} {named}: {path} does not exist; it is {wanted}")
    missing = [name for name in names if not (path / name).exists()]
    if missing:
        raise InvalidInput(f"{named.field} {named}: {path} has no {' and no '.join(missing)}; it is {wanted}")
    return path


def needs(named: Named, package: str, install: str) -> None:
    """Raise InvalidInput where a package is not installed."""
    if find_spec(package) is None:
        raise InvalidInput(f"{named.field} {named}: the package {install} is not installed; pip install {install}")
