"""Under which terms a video leaves: its marks, who consented, who was asked, what is published and what is kept.

It brings the policy and the record to a job: a request is admitted before weights load, frames are watched on their way
to the door, and what left is remembered. It does not know requests or models, only texts, pictures and frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lichtspiel.errors import LichtspielError
from lichtspiel.policy import rules
from lichtspiel.policy.guards import Guard
from lichtspiel.policy.verdict import Verdict, enforce, strictest
from lichtspiel.seal import certificates, record
from lichtspiel.seal.credentials import Provenance, digest
from lichtspiel.seal.export import Sealed
from lichtspiel.seal.marks import Marks

if TYPE_CHECKING:
    from lichtspiel.frames import Frame


__all__ = ["Inspection", "Terms"]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What goes with a job beside its request.

    `consent` is the requester's statement of who is shown and that they agreed; `guard` judges prompts after the
    built-in rules; `embed_prompt` publishes the prompt in the seal; `record_prompt` keeps its text in the record on
    this machine; `timestamp` is the address of an RFC 3161 authority.
    """

    marks: Marks = field(default_factory=Marks.of)
    consent: str | None = None
    guard: Guard | None = None
    embed_prompt: bool = False
    record_prompt: bool = True
    timestamp: str | None = None

    def __post_init__(self) -> None:
        if self.timestamp is not None:
            certificates.check_timestamp(self.timestamp)  # a wrong one would show up after the work

    def admit(self, text: str, images: Iterable[Frame], *, has_image: bool) -> Inspection:
        """Judge a request's text and pictures before the work begins.

        Raises Refused when the policy does not allow it, or asks for a consent that was not stated.
        """
        verdict = self.judge(text, images, has_image=has_image)
        enforce(verdict, consent=self.consent)
        return Inspection(self, verdict, has_image)

    def judge(self, text: str, images: Iterable[Frame], *, has_image: bool) -> Verdict:
        """What the policy says of a request's text and pictures."""
        prompt = rules.judge_prompt(text, has_image=has_image, guard=self.guard)
        return strictest(prompt, *(rules.judge_image(image) for image in images))


@dataclass
class Inspection:
    """One job under its terms, from the verdict about its request to its entry in the record."""

    terms: Terms
    before: Verdict
    has_image: bool
    after: Verdict | None = None

    def watch(self, frames: Iterable[Frame], fps: float) -> Iterator[Frame]:
        """Hand frames on and keep two a second; after the last one judge these, and raise Refused if they may not
        leave. The door has not let the file appear by then, so nothing of it stays.
        """
        picked: list[Frame] = []
        for frame, in_sample in rules.sampled(frames, fps):
            if in_sample:
                picked.append(frame)
            yield frame
        self.after = rules.judge_frames(picked, has_image=self.has_image)
        enforce(self.after, consent=self.terms.consent)

    def verdicts(self) -> dict[str, Any]:
        """What the policy said, by which version of its rules, and the consent that was stated."""
        return {
            "policy": rules.version(),
            "before": self.before.to_json(),
            "after": self.after.to_json() if self.after else None,
            "consent": self.terms.consent,
        }

    def remember(self, sealed: Sealed, provenance: Provenance) -> None:
        """Enter a video that left into the record of this machine. Raises LichtspielError when that fails."""
        keep = self.terms.record_prompt
        try:
            record.add(self._entry(sealed, provenance, keep))
        except LichtspielError as error:
            raise LichtspielError(f"{sealed.path} is there and sealed, but could not be recorded: {error}") from error

    def _entry(self, sealed: Sealed, provenance: Provenance, keep: bool) -> record.Entry:
        return record.Entry(
            id=provenance.id,
            watermark=provenance.mark if sealed.watermark else None,
            created=provenance.created,
            path=str(sealed.path.absolute()),
            sha256=sealed.sha256,
            model=provenance.model,
            version=provenance.version,
            request=provenance.parameters,
            prompt=provenance.prompt if keep else None,
            negative=provenance.negative if keep else None,
            prompt_digest=digest(provenance.id, provenance.prompt),
            inputs=tuple({"role": given.role, "sha256": given.sha256} for given in provenance.inputs),
            verdicts=self.verdicts(),
            marks=sealed.marks,
            reason=self.terms.marks.reason,
        )
