"""The terms of a job: the marks, consent, the guard that judges it, what is published and what is recorded.

This module applies the policy and the record to a job: it judges a request before weights are loaded, judges frames on
their way to the encoder, and records the finished video. It knows only texts, pictures and frames, not requests or
models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import LichtspielError, Refused, RequestError
from lichtspiel.policy import rules
from lichtspiel.policy.guards import Guard
from lichtspiel.policy.prompts import Policy, shipped
from lichtspiel.policy.verdict import Verdict, enforce, strictest
from lichtspiel.seal import certificates, record
from lichtspiel.seal.credentials import Provenance, digest
from lichtspiel.seal.export import Sealed
from lichtspiel.seal.marks import Marks
from lichtspiel.workflows import refusals

if TYPE_CHECKING:
    from lichtspiel.frames import Frame


__all__ = ["MAX_CONSENT", "Inspection", "Terms", "read_consent"]

MAX_CONSENT = 2000
"""The most characters in a statement of consent."""


def read_consent(value: object) -> str | None:
    """The requester's statement, or None where there is none. Raises RequestError for what is no text or too long."""
    if value is None or (isinstance(value, str) and len(value) <= MAX_CONSENT):
        return value
    shown = value[:40] if isinstance(value, str) else value
    raise RequestError("consent", shown, f"it is text of at most {MAX_CONSENT:,} characters")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a job needs besides its request.

    `consent` is the requester's statement of who is shown and that they agreed, at most MAX_CONSENT characters.
    `policy` contains the rules (None means the shipped ones), and `guard` judges prompts after them. `embed_prompt`
    publishes the prompt in the seal, `record_prompt` keeps its text in the record on this machine, and
    `log_refused_prompt` keeps it in the log of refusals. `timestamp` is the URL of an RFC 3161 authority. `store` is
    the record, by default that of this machine. Raises RequestError for a consent that is not text or is too long.
    """

    marks: Marks = field(default_factory=Marks.of)
    consent: str | None = None
    policy: Policy | None = None
    guard: Guard | None = None
    embed_prompt: bool = False
    record_prompt: bool = True
    log_refused_prompt: bool = False
    timestamp: str | None = None
    store: record.Store | None = None

    def __post_init__(self) -> None:
        if self.timestamp is not None:
            certificates.check_timestamp(self.timestamp)  # otherwise an invalid one would only show after the work
        read_consent(self.consent)

    def admit(self, text: str, images: Iterable[Frame], *, has_image: bool, negative: str = "") -> Inspection:
        """Judge a request's text and pictures before the work begins. Of the negative prompt, only clothes matter.

        Raises Refused when the policy does not allow the request, or requires a consent that was not stated.
        """
        verdict = self.judge(text, images, has_image=has_image, negative=negative)
        self.enforce(verdict, "request", text)
        return Inspection(self, verdict, has_image, text)

    def enforce(self, verdict: Verdict, stage: Literal["request", "frames"], text: str) -> None:
        """Raise and log Refused unless a verdict lets the work go on."""
        try:
            enforce(verdict, consent=self.consent)
        except Refused:
            prompt = text if self.log_refused_prompt else None
            refusals.add(verdict, stage=stage, policy=self.rules_version, prompt=prompt)
            raise

    @property
    def rules_version(self) -> str:
        """The edition of the rules in use."""
        return (self.policy or shipped()).version

    def judge(self, text: str, images: Iterable[Frame], *, has_image: bool, negative: str = "") -> Verdict:
        """The policy's verdict on a request's text and pictures."""
        prompt = rules.judge_prompt(text, has_image=has_image, negative=negative, guard=self.guard, policy=self.policy)
        return strictest(prompt, *(rules.judge_image(image) for image in images))


@dataclass
class Inspection:
    """One job under its terms, from the verdict on its request to its entry in the record."""

    terms: Terms
    before: Verdict
    has_image: bool
    text: str = field(default="", repr=False)
    after: Verdict | None = None

    def watch(self, frames: Iterable[Frame], fps: float) -> Iterator[Frame]:
        """Pass frames through, keep two per second, and judge those after the last frame.

        Raises Refused if the frames may not leave. The file has not been renamed to its final path by then, so nothing
        of it remains.
        """
        picked: list[Frame] = []
        for frame, in_sample in rules.sampled(frames, fps):
            if in_sample:
                picked.append(frame)
            yield frame
        self.after = rules.judge_frames(picked, has_image=self.has_image)
        self.terms.enforce(self.after, "frames", self.text)

    def verdicts(self) -> dict[str, Any]:
        """The policy's verdicts, the edition of its rules, and the consent that was stated."""
        return {
            "policy": self.terms.rules_version,
            "before": self.before.to_json(),
            "after": self.after.to_json() if self.after else None,
            "consent": self.terms.consent,
        }

    def remember(self, sealed: Sealed, provenance: Provenance, name: str | None = None) -> None:
        """Add a finished video to the record, under `name` if it will not stay where it is. Raises LichtspielError when
        that fails."""
        store: record.Store = record if self.terms.store is None else self.terms.store
        try:
            store.add(self._entry(sealed, provenance, name or str(sealed.path.absolute())))
        except LichtspielError as error:
            raise LichtspielError(
                f"{sealed.path} is finished and sealed, but could not be recorded: {error}"
            ) from error

    def _entry(self, sealed: Sealed, provenance: Provenance, name: str) -> record.Entry:
        keep = self.terms.record_prompt
        return record.Entry(
            id=provenance.id,
            watermark=provenance.mark if sealed.watermark else None,
            created=provenance.created,
            path=name,
            sha256=sealed.sha256,
            model=provenance.model,
            version=provenance.version,
            request=provenance.parameters,
            prompt=provenance.prompt if keep else None,
            negative=provenance.negative if keep else None,
            prompt_digest=digest(provenance.id, provenance.prompt),
            inputs=tuple({"role": source.role, "sha256": source.sha256} for source in provenance.inputs),
            verdicts=self.verdicts(),
            marks=sealed.marks,
            reason=self.terms.marks.reason,
        )
