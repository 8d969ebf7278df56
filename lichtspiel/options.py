"""How options are shown to people: their place on the command line, and their valid values in words.

The words are derived from JSON schemas. This module knows no option by name; `request.OPTIONS` lists them.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["COMPUTING", "FILES", "GUIDING", "SAMPLING", "SHAPE", "Hint", "closest", "values_of"]

FILES, SHAPE, SAMPLING = "Pictures, videos and LoRA", "Size and length", "Sampling"
GUIDING, COMPUTING = "Guidance and speed", "Model and device"
"""The headings under which the options of a request are listed."""


@dataclass(frozen=True)
class Hint:
    """How the command line shows an option.

    `group` is its heading, `flag` its name (that of the field if empty) and `metavar` the placeholder for its value.
    `rule` says which values are valid if type and bounds do not say it well.
    """

    group: str
    flag: str = ""
    metavar: str = ""
    rule: str = ""


def values_of(schema: Mapping[str, Any]) -> str:
    """Describe the values that a JSON schema allows, such as "a whole number from 1 to 1000"."""
    if "enum" in schema:
        *values, last = map(str, schema["enum"])
        return f"{', '.join(values)} or {last}"
    kind = schema.get("type", "")
    if kind == "boolean":
        return "true or false"
    if kind == "array":
        return f"at most {schema['maxItems']} of them, each the name of a file"
    if kind == "string":
        return f"text of at most {schema['maxLength']} characters" if "maxLength" in schema else "text"
    if "anyOf" in schema:
        return "the name of a file"
    words = ["a whole number" if kind == "integer" else "a number"]
    if "minimum" in schema:
        words.append(f"from {schema['minimum']:g}")
    if "exclusiveMinimum" in schema:
        words.append(f"above {schema['exclusiveMinimum']:g}")
    if "maximum" in schema:
        words.append(f"to {schema['maximum']:g}" if "minimum" in schema else f"and at most {schema['maximum']:g}")
    return " ".join(words)


def closest(value: object, choices: Collection[Any]) -> Any:
    """The choice whose spelling is closest to a value; None if none is close."""
    names = {str(choice): choice for choice in choices}
    return next((names[name] for name in difflib.get_close_matches(str(value).lower(), names, n=1)), None)
