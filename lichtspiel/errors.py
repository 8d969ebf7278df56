"""Every error a user can meet, as one tree.

    LichtspielError                 exit 1   anything that went wrong while working
    ├── InvalidInput (ValueError)   exit 2   what was asked for or handed in cannot be used
    │   ├── RequestError                     a field of the request breaks a rule
    │   ├── WeightsError                     a checkpoint is missing, damaged or of the wrong kind
    │   ├── MediaError                       an image or video cannot be read
    │   └── OutputError                      the result could not be written where it was asked for
    ├── Refused                     exit 3   a policy does not allow it
    ├── OutOfMemory                 exit 1   the memory of this machine or GPU does not suffice
    ├── NonFinite                   exit 1   a stage computed NaN or infinity
    └── Interrupted                 exit 1   stopped by the user or the system; says what was kept
        └── Cancelled                        stopped because whoever asked for it does not want it any more

Messages are one line: what is wrong, with which value, by which rule, and the nearest thing that would work.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

__all__ = [
    "Cancelled",
    "Interrupted",
    "InvalidInput",
    "LichtspielError",
    "MediaError",
    "NonFinite",
    "OutOfMemory",
    "OutputError",
    "Refused",
    "RequestError",
    "WeightsError",
    "name_fields",
    "printable",
    "shortened",
]


class LichtspielError(Exception):
    """Base of all errors that are meant for a person; `exit_code` is what the command line returns."""

    exit_code = 1


class InvalidInput(LichtspielError, ValueError):
    """What was asked for or handed in cannot be used; nothing was loaded or written."""

    exit_code = 2


class RequestError(InvalidInput):
    """A field of the request breaks a rule.

    `field` and `value` name the culprit, `rule` says what holds, `nearest` is the closest value that would be
    accepted (None when there is no such thing). A rule names other fields as `<image>`; see `name_fields`. `message` is
    the whole text where these parts do not make a good one.
    """

    def __init__(
        self, field: str, value: object, rule: str, nearest: object = None, *, message: str | None = None
    ) -> None:
        self.field, self.value, self.rule, self.nearest = field, value, rule, nearest
        self.message = message
        hint = "" if nearest is None else f"; nearest valid value: {nearest}"
        shown = None if message is None else name_fields(message)
        super().__init__(shown or f"{field}: {_quoted(value)} is not valid: {name_fields(rule)}{hint}")


def name_fields(text: str, name: Callable[[str], str] = lambda field: field) -> str:
    """A text in which `<image>` stands for the field `image`, with the name that its reader knows the field by."""
    return re.sub(r"<([a-z_]+)>", lambda match: name(match[1]), text)


def printable(text: str) -> str:
    """A stranger's text as one line for a terminal: characters that the terminal would obey are blanks."""
    return "".join(" " if unicodedata.category(letter) in {"Cc", "Cf", "Zl", "Zp"} else letter for letter in text)


def _quoted(value: object) -> str:
    """A value for a message. A text of megabytes is cut before it is quoted, which would take long."""
    if isinstance(value, str) and len(value) > _LONG:
        value = f"{value[: _LONG // 2]}{value[-_LONG // 2 :]}"
    return shortened(repr(value))


_LONG = 1000


def shortened(text: str, most: int = 120) -> str:
    """A text for a message of one line: its middle is left out where it is too long."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 4 :]}"


class WeightsError(InvalidInput):
    """A checkpoint is missing, truncated, unexpected or does not fit the model; the message names the remedy."""


class MediaError(InvalidInput):
    """An image or video cannot be opened, or is larger than the limits allow."""


class OutputError(InvalidInput):
    """The output path cannot be written; checked before any work is done."""


class Refused(LichtspielError):
    """A policy does not allow the request or its result; `rule` names the rule, where one did."""

    exit_code = 3

    def __init__(self, message: str, rule: str = "") -> None:
        self.rule = rule
        super().__init__(message)


class OutOfMemory(LichtspielError):
    """The memory does not suffice: known before anything is loaded, or found out while working."""


class NonFinite(LichtspielError):
    """A stage produced NaN or infinity; `stage` says which one."""

    def __init__(self, stage: str, hint: str) -> None:
        self.stage = stage
        super().__init__(f"{stage} produced values that are not finite; {hint}")


class Interrupted(LichtspielError):
    """The run was stopped from outside; the message says what is kept and how to go on."""


class Cancelled(Interrupted):
    """Whoever asked for the work does not want it any more; nothing is kept for them."""
