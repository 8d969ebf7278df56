"""Verdicts of the policy: a decision with its category and rule, and which of several decisions counts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lichtspiel.errors import Refused

__all__ = ["Decision", "Verdict", "enforce", "strictest"]

Decision = Literal["allowed", "needs consent", "refused"]

_STRICTNESS: dict[Decision, int] = {"allowed": 0, "needs consent": 1, "refused": 2}


@dataclass(frozen=True)
class Verdict:
    """A verdict of the policy.

    `category` is the kind of content ("none" if there is no objection) and `rule` is the rule that decided. `detail`
    explains the decision in a sentence, which quotes only those words of the prompt that matched. For logs, category
    and rule are enough.
    """

    decision: Decision
    category: str
    rule: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """The verdict as a plain dictionary for `json.dumps`."""
        return dataclasses.asdict(self)


def strictest(*verdicts: Verdict) -> Verdict:
    """The strictest of several verdicts; among equally strict ones, the first that names a category."""
    return max(verdicts, key=lambda verdict: (_STRICTNESS[verdict.decision], verdict.category != "none"))


def enforce(verdict: Verdict, *, consent: str | None = None) -> None:
    """Raise Refused unless the work may go on.

    `consent` is the requester's statement of who is shown and that they agreed. It satisfies "needs consent" but never
    overrides a refusal. The caller must record it together with the verdict.
    """
    if verdict.decision == "refused":
        text = f"refused by the policy: {verdict.detail} (category {verdict.category}, rule {verdict.rule})"
        raise Refused(text, verdict.rule)
    if verdict.decision == "needs consent" and not (consent or "").strip():
        raise Refused(
            f"the policy asks for consent: {verdict.detail} (rule {verdict.rule}); "
            'say who is shown and that they agreed, with --consent "TEXT" (in the API: the field consent); '
            "the text is recorded",
            verdict.rule,
        )
