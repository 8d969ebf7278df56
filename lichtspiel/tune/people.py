"""Consent: whoever tunes a model on pictures of real people says once who they are and that they agreed.

The policy that judges given pictures elsewhere judges the data here, and the captions too. The statement is kept in the
cache, beside what was learnt from, and goes into the metadata of what is trained on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from lichtspiel.errors import InvalidInput, Refused
from lichtspiel.frames import Frame
from lichtspiel.policy import rules
from lichtspiel.policy.verdict import Verdict, strictest
from lichtspiel.storage import atomic_write
from lichtspiel.tune.layouts import Found

__all__ = ["People"]

STATEMENT = "consent.json"
MAX_STATEMENT = 2000
"""The most characters in a statement, as for one video."""


@dataclass
class People:
    """The policy's verdicts on the files of a data set."""

    verdicts: dict[Path, Verdict] = field(default_factory=dict)

    def watch(self, path: Path, frame: Frame) -> None:
        """Judge a frame of a file; the strictest verdict counts."""
        before = self.verdicts.get(path)
        if before is None or before.decision != "refused":
            verdict = rules.judge_image(frame)
            self.verdicts[path] = verdict if before is None else strictest(before, verdict)

    def read(self, path: Path, caption: str) -> None:
        """Judge the caption of a file."""
        verdict = rules.judge_prompt(caption, has_image=True)
        self.verdicts[path] = strictest(self.verdicts[path], verdict) if path in self.verdicts else verdict

    def add_refusals(self, found: Found) -> None:
        """Turn the files that the policy refuses into findings."""
        for path, verdict in self.verdicts.items():
            if verdict.decision == "refused":
                found.refuse(path, f"is refused by the policy: {verdict.detail} (rule {verdict.rule}); remove it")

    @property
    def asking(self) -> list[Path]:
        """The files for which the policy asks for consent."""
        return [path for path, verdict in self.verdicts.items() if verdict.decision == "needs consent"]

    def consent(self, stated: str | None, cache: Path) -> str | None:
        """The statement about the people in the data, from the command line or from before; None without one.

        Raises Refused if one is needed and none was made.
        """
        statement = (stated or "").strip() or _kept(cache)
        if len(statement) > MAX_STATEMENT:
            raise InvalidInput(f"--consent has {len(statement):,} characters; at most {MAX_STATEMENT:,} are kept")
        if self.asking and not statement:
            first = self.asking[0]
            raise Refused(
                f"the policy asks for consent to {len(self.asking)} of the files, such as {first}: "
                f"{self.verdicts[first].detail} (rule {self.verdicts[first].rule}); say who is shown and that they "
                'agreed, with --consent "TEXT"; it is asked once and recorded in what is trained'
            )
        if not statement:
            return None
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_write(cache / STATEMENT, mode=0o600) as draft:
            draft.write_text(json.dumps({"consent": statement}, ensure_ascii=False), encoding="utf-8")
        return statement


def _kept(cache: Path) -> str:
    """The statement that was made about this data before, or nothing."""
    try:
        return str(json.loads((cache / STATEMENT).read_text(encoding="utf-8"))["consent"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
