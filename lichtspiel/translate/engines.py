"""How an engine is named: "espeak", "whisper:models/small", "chat:http://127.0.0.1:8000/v1#qwen".

What stands before the colon is the kind, what follows is the user's file, folder or address, and after a # comes a
choice inside it, such as a voice or a model.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.translate import tongues

__all__ = ["MODELS", "Named", "existing", "needs", "parse", "spoken", "undivided", "unreadable"]

MODELS = "pip install 'lichtspiel[translate-models]'"
"""What installs the packages that most engines with files run on."""

_REASON = 160  # characters of a library's own words that are shown


@dataclass(frozen=True)
class Named:
    """An engine as it was typed: its kind, the place of its files (None without one), and a choice inside them."""

    field: str
    kind: str
    place: str | None
    choice: str | None

    def __str__(self) -> str:
        return self.kind if self.place is None else f"{self.kind}:{self.place}"


def parse(field: str, text: str, kinds: Iterable[str], placeless: Iterable[str] = (), place: str = "PATH") -> Named:
    """Read the name of an engine. The `placeless` ones need no file; after their colon comes a choice at once. Raises
    InvalidInput for kinds that do not exist and for places that are missing; `place` is how those are called."""
    known, without = [*kinds], {*placeless}
    kind, _, rest = text.partition(":")
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        shown = ", ".join(name if name in without else f"{name}:{place}" for name in known)
        raise InvalidInput(f"{field} {text[:60]!r} is not known{hint} Engines are: {shown}")
    if kind in without:
        return Named(field, kind, None, rest or None)
    where, _, choice = rest.partition("#")
    if choice and _there(Path(rest).expanduser()):  # the # belongs to the name of a file
        where, choice = rest, ""
    if not where:
        wanted = "URL#MODEL" if kind == "chat" else place
        raise InvalidInput(f"{field} {kind} needs {'its address' if kind == 'chat' else 'its files'}: "
                           f"{field} {kind}:{wanted}")  # fmt: skip
    return Named(field, kind, where, choice or None)


def existing(named: Named, wanted: str, *, names: Sequence[str] = ()) -> Path:
    """The file or folder of an engine. Raises InvalidInput where it is missing, or lacks one of the files `names`;
    `wanted` says what belongs there."""
    path = Path(str(named.place)).expanduser()
    remedy = f"type {named.field} {named.kind}:PATH, where PATH is {wanted}"
    if not _there(path):
        raise InvalidInput(f"{named.field} {named}: {path} does not exist; {remedy}")
    missing = [name for name in names if not _there(path / name)]
    if missing:
        near = _beside(path, names)
        hint = remedy if near is None else f"did you mean {named.field} {named.kind}:{near}?"
        lacks = f"has no {' and no '.join(missing)}" if path.is_dir() else "is a file, not a folder"
        raise InvalidInput(f"{named.field} {named}: {path} {lacks}; {hint}")
    return path


def undivided(named: Named) -> None:
    """Raise InvalidInput for a choice in an engine that has nothing to choose."""
    if named.choice is not None:
        raise InvalidInput(f"{named.field} {named}#{named.choice}: there is nothing to choose in it; drop "
                           f"#{named.choice}")  # fmt: skip


def needs(named: Named, package: str, install: str) -> None:
    """Raise InvalidInput where a package is not installed; `install` is the command that installs it."""
    if find_spec(package) is None:
        missing = package.replace("_", "-")
        raise InvalidInput(f"{named.field} {named}: the package {missing} is not installed; {install}")


def spoken(said: str | None, known: frozenset[str] | None) -> tuple[str, tuple[str, ...]]:
    """The language of a sound: what was `said` about it, or the only one that an engine knows; and a note where neither
    tells it, so that English is assumed."""
    if said is not None:
        return tongues.canonical(said), ()
    if known is not None and len(known) == 1:
        return next(iter(known)), ()
    return "en", ("nothing says which language is spoken, so it is taken for English: say another with --from",)


def unreadable(named: Named, error: object, remedy: str) -> InvalidInput:
    """The error for files that a library could not read, with the first sentence of its own words."""
    reason = re.split(r"(?<=\.)\s|\n", str(error).strip())[0].rstrip(".")
    short = reason if len(reason) <= _REASON else f"{reason[:_REASON]}…"
    return InvalidInput(f"{named.field} {named}: cannot be read ({short or type(error).__name__}); {remedy}")


def _there(path: Path) -> bool:
    """Whether a path exists; names that are too long, and folders that may not be read, count as none."""
    try:
        return path.exists()
    except OSError:
        return False


def _beside(path: Path, names: Sequence[str]) -> Path | None:
    """The folder that was meant, where it is the one around a file, or the only fitting one in a folder."""
    try:
        near = [path.parent] if path.is_file() else [one for one in path.iterdir() if one.is_dir()]
    except OSError:
        return None
    fitting = [one for one in near if all(_there(one / name) for name in names)]
    return fitting[0] if len(fitting) == 1 else None
