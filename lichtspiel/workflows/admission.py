"""Admit a request: read its files once and let the policy judge it, before any weights are loaded.

This module does not import torch, so a server can answer with it immediately.
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
    """An admitted request: its files as they were judged, the verdict, and notes for the requester."""

    request: Request
    inputs: Inputs
    inspection: Inspection
    notes: list[str]


def admit(request: Request, terms: Terms, inputs: Inputs | None = None, verdict: Verdict | None = None) -> Admission:
    """Check a request and its files, and let the policy judge them.

    `inputs` are the files, if they have already been read. `verdict` is the policy's verdict if it has already judged
    this very request; it is not consulted again then. Raises Refused, and MediaError or RequestError for files that
    cannot be read or do not fit. With guidance below 1 the negative prompt acts as a positive one, so it is judged
    together with the prompt; otherwise only its words for clothes matter.
    """
    inputs = read_inputs(request) if inputs is None else inputs
    notes = inputs.check(request)
    verdict = verdict or judge(request, inputs, terms)
    terms.enforce(verdict, "request", request.prompt)
    return Admission(request, inputs, Inspection(terms, verdict, bool(inputs.by_role), request.prompt), notes)


def judge(request: Request, inputs: Inputs, terms: Terms) -> Verdict:
    """The policy's verdict on a request and its files. Does not check whether consent was stated."""
    pushes = request.guidance >= 1
    text = request.prompt if pushes else f"{request.prompt}\n{request.negative}"
    negative = request.negative if pushes else ""
    return terms.judge(text, inputs.judged(request), has_image=bool(inputs.by_role), negative=negative)
