"""How what goes wrong is said: one line on stderr that names the flag as it is typed, and an exit code."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from lichtspiel.cli.flags import message
from lichtspiel.errors import LichtspielError, printable
from lichtspiel.storage import home

__all__ = ["message", "run"]

USAGE: type[Exception] = typer.BadParameter.__mro__[2]
"""What is raised for words that cannot be parsed. Typer brings its own copy of Click, or uses the one installed."""


_MENDABLE = {
    errno.ENAMETOOLONG: "no file can have so long a name; a name has at most 255 bytes",
    errno.ENOSPC: "the disk is full; free some space, or choose a folder on another disk",
    errno.EDQUOT: "your share of the disk is full; free some space, or choose a folder on another disk",
    errno.EROFS: "this disk can only be read; choose a folder on another one",
    errno.EACCES: "you may not read or write here; choose another place, or change its permissions",
    errno.EPERM: "you may not read or write here; choose another place, or change its permissions",
}
"""What a file system refuses where nothing was checked before, and what the person can do: no faults of ours."""


def run(command: Callable[[], Any]) -> int:
    """Run a command; returns its exit code."""
    try:
        code = command()
    except LichtspielError as error:
        return _fail(message(error), error.exit_code)
    except USAGE as error:
        return _fail(_usage(error), 2)
    except OSError as error:
        if error.errno not in _MENDABLE:
            return _fail(_unexpected(error), 1)
        place = "" if error.filename is None else f"{error.filename}: "
        return _fail(place + _MENDABLE[error.errno], 2)
    except Exception as error:
        return _fail(_unexpected(error), 1)
    if code == 130:  # Ctrl-C where no stage had anything to keep
        return _fail("stopped; nothing was written", 1)
    return code if isinstance(code, int) else 0


def _fail(text: str, code: int) -> int:
    print(f"error: {printable(text)}", file=sys.stderr)
    return code


def _usage(error: Any) -> str:
    """What was typed wrong, and what to type instead."""
    # Typer names its validator before the reason, and lists choices over several lines.
    text = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return text
    command = context.command_path
    extra = re.match(r"Got unexpected extra argument\S* \((.*)\)", text, re.DOTALL)
    if extra and any(one.name == "prompt" and one.param_type_name == "argument" for one in context.command.params):
        return f'unexpected words after the prompt: {extra[1]}. Put the whole prompt in quotes: {command} "a cat"'
    return f"{text}; see `{command} --help`"


def _unexpected(error: Exception) -> str:
    """A fault of ours: one line for the person, everything for whoever mends it."""
    path = home() / "last-error.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        traceback.print_exception(error)
        return f"a fault of Lichtspiel: {type(error).__name__}: {error}"
    return f"a fault of Lichtspiel: {type(error).__name__}: {error}. Please report it with {path}"
