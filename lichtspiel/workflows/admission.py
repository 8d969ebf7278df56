"""Whether a request may be made at all: its files are read once and the policy judges it, before any weights load.

It loads no torch, so that a server can answer with it at once.
"""

from __future__ import annotations

from lichtspiel.inference.inputs import look
from lichtspiel.request import Request
from lichtspiel.workflows.terms import Inspection, Terms

__all__ = ["admit"]


def admit(request: Request, terms: Terms) -> tuple[Inspection, list[str]]:
    """Look at what a request brings and judge it by the policy; also returns what the requester should be told.

    Raises Refused, or MediaError or RequestError for files that cannot be read or do not fit. Below guidance 1 the
    negative prompt pulls instead of pushing, so it is judged with the prompt.
    """
    text = request.prompt if request.guidance >= 1 else f"{request.prompt}\n{request.negative}"
    seen = look(request)
    return terms.admit(text, seen.pictures, has_image=bool(seen.pictures)), seen.notes
