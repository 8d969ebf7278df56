"""Whether a request may be made at all: its files are read once and the policy judges it, before any weights load.

It loads no torch, so that a server can answer with it at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from lichtspiel.inference.inputs import Inputs, read_inputs
from lichtspiel.policy.verdict import Verdict
from lichtspiel.request import Request
from lichtspiel.workflows.terms import Inspection, Terms

__all__ = ["Admission", "admit", "judge"]


@dataclass(frozen=True)
class Admission:
    """A request that may be made: its files as they were judged, the verdict, and notes for the requester."""

    request: Request
    inputs: Inputs
    inspection: Inspection
    notes: list[str]


def admit(request: Request, terms: Terms, inputs: Inputs | None = None, verdict: Verdict | None = None) -> Admission:
    """Check a request and its files, and let the policy judge them. `inputs` are the files if they were read already,
    and `verdict` is the policy's if it has judged this very request already; then it is not asked again.

    Raises Refused, or MediaError or RequestError for files that cannot be read or do not fit. Below guidance 1 the
    negative prompt pulls instead of pushing, so it is judged with the prompt; above, only its words for clothes are.
    """
    inputs = read_inputs(request) if inputs is None else inputs
    notes = inputs.check(request)
    verdict = verdict or judge(request, inputs, terms)
    terms.enforce(verdict, "request", request.prompt)
    return Admission(request, inputs, Inspection(terms, verdict, bool(inputs.by_role), request.prompt), notes)


def judge(request: Request, inputs: Inputs, terms: Terms) -> Verdict:
    """What the policy says of a request and its files; whether consent was stated is not its business."""
    pushes = request.guidance >= 1
    text = request.prompt if pushes else f"{request.prompt}\n{request.negative}"
    negative = request.negative if pushes else ""
    return terms.judge(text, inputs.judged(request), has_image=bool(inputs.by_role), negative=negative)
