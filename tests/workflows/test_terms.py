"""A job under its terms: admitted before the work, watched on the way out, remembered afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lichtspiel.errors import LichtspielError, Refused, RequestError
from lichtspiel.policy import Verdict, prompts, rules
from lichtspiel.policy.prompts import load
from lichtspiel.seal import Marks, digest, record, seal
from lichtspiel.workflows import refusals
from lichtspiel.workflows.terms import Terms
from tests.seal.conftest import NEGATIVE, PROMPT, frames, provenance


@pytest.fixture(autouse=True)
def installation_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of one test is not that of another."""
    folder = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("LICHTSPIEL_HOME", str(folder))
    return folder


def sealed_under(terms: Terms, out: Path) -> str:
    said = provenance()
    inspection = terms.admit(said.prompt, [], has_image=False)
    inspection.remember(seal(inspection.watch(frames(), 16), said, out, fps=16, marks=terms.marks), said)
    return said.id


def test_a_hard_line_is_refused_before_the_work() -> None:
    with pytest.raises(Refused, match=r"minors\.sexual"):
        Terms(consent="all agreed").admit("a naked child on a beach", [], has_image=False)


def test_consent_opens_what_asks_for_it_and_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    asks = Verdict("needs consent", "real person", "image.face", "the picture shows a face")
    monkeypatch.setattr(rules, "judge_image", lambda image: asks)
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(Refused, match="asks for consent"):
        Terms().admit("she smiles", [picture], has_image=True)
    inspection = Terms(consent="Ada, who agreed in writing").admit("she smiles", [picture], has_image=True)
    assert inspection.verdicts()["before"]["rule"] == "image.face"
    assert inspection.verdicts()["consent"] == "Ada, who agreed in writing"


def test_frames_that_may_not_leave_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def refuse(picked: list[np.ndarray], *, has_image: bool) -> Verdict:
        looked.append(len(picked))
        return Verdict("refused", "sexual", "frames.explicit", "explicit")

    monkeypatch.setattr(rules, "judge_frames", refuse)
    with pytest.raises(Refused, match=r"frames\.explicit"):
        sealed_under(Terms(), tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []
    assert looked == [2]  # the first and the last: nine frames at 16 a second are half a second
    assert list(record.entries()) == []


def test_what_left_is_remembered(tmp_path: Path) -> None:
    id = sealed_under(Terms(), tmp_path / "fox.mp4")
    entry = record.find(id)
    assert entry is not None
    assert (entry.prompt, entry.negative, entry.model, entry.marks) == (PROMPT, NEGATIVE, "nano", "eu")
    assert entry.prompt_digest == digest(id, PROMPT)
    assert entry.request["seed"] == 7
    assert entry.path == str(tmp_path / "fox.mp4")
    assert record.find_watermark(int(id[:8], 16)) == [entry]
    assert entry.verdicts["before"]["decision"] == "allowed"
    assert entry.verdicts["policy"] == prompts.shipped().version


def test_the_text_stays_out_of_the_record_when_asked(tmp_path: Path) -> None:
    entry = record.find(sealed_under(Terms(record_prompt=False), tmp_path / "fox.mp4"))
    assert entry is not None
    assert (entry.prompt, entry.negative) == (None, None)
    assert PROMPT.encode() not in (Path(record.home()) / "record.sqlite").read_bytes()


def test_opting_out_is_recorded_with_its_reason(tmp_path: Path) -> None:
    entry = record.find(sealed_under(Terms(marks=Marks.none("a test chart")), tmp_path / "fox.mp4"))
    assert entry is not None
    assert (entry.marks, entry.reason, entry.watermark) == ("none", "a test chart", None)


def test_a_record_that_cannot_be_written_is_told_with_the_video(tmp_path: Path, installation_of_its_own: Path) -> None:
    (installation_of_its_own / "record.sqlite").write_text("no database")
    with pytest.raises(LichtspielError, match=r"fox\.mp4 is finished and sealed, but could not be recorded"):
        sealed_under(Terms(), tmp_path / "fox.mp4")
    assert (tmp_path / "fox.mp4").is_file()


def test_a_refusal_is_logged_by_rule_and_time_and_without_its_words(installation_of_its_own: Path) -> None:
    for terms in (Terms(), Terms(log_refused_prompt=True)):
        with pytest.raises(Refused):
            terms.admit("my secret: a naked child", [], has_image=False)
    path = installation_of_its_own / "refusals.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    newest, first = refusals.entries()
    assert (first["rule"], first["category"], first["stage"]) == ("minors.sexual", "minors", "request")
    assert first["time"].startswith("20")
    assert "naked" not in path.read_text().splitlines()[0]
    assert newest["prompt"] == "my secret: a naked child"


def test_refused_frames_are_logged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "judge_frames", lambda *_, **__: Verdict("refused", "sexual", "frames.explicit", ""))
    inspection = Terms().admit("a fox", [], has_image=False)
    with pytest.raises(Refused):
        list(inspection.watch(frames(), 16))
    (entry,) = refusals.entries()
    assert (entry["rule"], entry["stage"]) == ("frames.explicit", "frames")


def test_the_log_of_refusals_is_bounded_and_never_in_the_way(
    installation_of_its_own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "MAX_BYTES", 2000)
    for _ in range(40):
        refusals.add(Verdict("refused", "a", "b", ""), stage="request", policy="1", prompt=None)
    path = installation_of_its_own / "refusals.jsonl"
    assert path.stat().st_size <= 2200
    path.write_text("damaged\n" + path.read_text())
    assert 0 < len(list(refusals.entries())) < 40
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused):
        Terms().admit("a naked child", [], has_image=False)


@pytest.mark.parametrize("consent", [5, ["all"], {"a": 1}, "x" * 2001])
def test_a_consent_is_text_of_bounded_length(consent: Any) -> None:
    with pytest.raises(RequestError, match=r"consent.*2,000 characters") as caught:
        Terms(consent=consent)
    assert len(str(caught.value)) < 300


def test_clothes_in_the_negative_prompt_of_a_request_are_judged() -> None:
    with pytest.raises(Refused, match=r"person\.negative"):
        Terms().admit("my neighbor on a sofa", [], has_image=False, negative="clothes")


def test_own_rules_judge_and_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('version = "3"\n[categories]\nviolence = "allowed"\n')
    terms = Terms(policy=load(tmp_path / "own.toml"))
    inspection = terms.admit("a man is beheaded", [], has_image=False)
    assert inspection.verdicts()["policy"].endswith("+3")
    with pytest.raises(Refused):
        Terms().admit("a man is beheaded", [], has_image=False)
