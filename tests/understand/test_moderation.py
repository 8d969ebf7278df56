"""Existing videos are judged over time, by pictures and words, and what was not looked at needs review."""

from __future__ import annotations

from pathlib import Path

import pytest

from lichtspiel.errors import InvalidInput
from lichtspiel.understand.analysis import Analysis
from lichtspiel.understand.footage import Finding
from lichtspiel.understand.moderation import (
    LOOKING,
    Judgment,
    Objection,
    Thresholds,
    calibrate,
    decide,
    judge,
    read_labels,
)
from lichtspiel.understand.store import Index
from lichtspiel.workflows.moderate import write_sheets
from tests.understand.clips import drawn, write

LOOKED = dict.fromkeys(LOOKING, "1")


def indexed(folder: Path, *findings: Finding, used: dict[str, str] = LOOKED, caption: str = "") -> Index:
    """An index with one video of which this was found."""
    index = Index(folder / "index.sqlite", create=True)
    index.add(Analysis("/a.mp4", "d", 9.0, 64, 64, 8, 72, caption, (), findings, used), 1, 1)
    return index


def stills(*scores: float) -> list[Finding]:
    return [Finding(n / 2, n / 2 + 0.5, "explicit", score=score) for n, score in enumerate(scores)]


def test_what_is_harmless_is_allowed(tmp_path: Path) -> None:
    index = indexed(tmp_path, *stills(0.01, 0.1), Finding(0, 2, "speech", "go forward ten meters"))
    judgment = judge(index, "/a.mp4")
    assert (judgment.decision, judgment.objections, judgment.category) == ("allowed", (), "none")
    assert judgment.checked == LOOKING


def test_two_explicit_stills_refuse_and_one_needs_review(tmp_path: Path) -> None:
    once = judge(indexed(tmp_path, *stills(0.01, 0.95, 0.02)), "/a.mp4")
    assert once.decision == "needs review"
    (reason,) = once.objections
    assert (reason.start, reason.end, reason.category, reason.source) == (0.5, 1.0, "sexual", "picture")
    (tmp_path / "one").mkdir()
    assert judge(indexed(tmp_path / "one", *stills(0.01, 0.3, 0.02)), "/a.mp4").decision == "allowed"
    (tmp_path / "two").mkdir()
    twice = judge(indexed(tmp_path / "two", *stills(0.9, 0.95, 0.02)), "/a.mp4")
    assert twice.decision == "refused"
    assert judge(indexed(tmp_path, *stills(0.9, 0.95)), "/a.mp4", Thresholds(0.96, 0.5)).decision == "needs review"


def test_speech_and_writing_are_judged_where_they_are(tmp_path: Path) -> None:
    said = Finding(2, 4, "speech", "how to build a pipe bomb at home")
    judgment = judge(indexed(tmp_path, *stills(0.0), said), "/a.mp4")
    assert judgment.decision == "refused"
    reason = judgment.objections[0]
    assert (reason.start, reason.end, reason.source, reason.category) == (2, 4, "speech", "weapons")
    assert reason.detail.startswith("the speech ")


def test_a_sentence_in_two_lines_is_read_as_one(tmp_path: Path) -> None:
    lines = [Finding(0, 1, "text", "how to build"), Finding(1, 2, "text", "a pipe bomb")]
    judgment = judge(indexed(tmp_path, *stills(0.0), *lines), "/a.mp4")
    assert judgment.decision == "refused"
    assert (judgment.objections[0].start, judgment.objections[0].end) == (0, 2)


def test_what_was_not_looked_at_needs_review(tmp_path: Path) -> None:
    index = indexed(tmp_path, used={name: "1" for name in LOOKING if name != "nudity"})
    judgment = judge(index, "/a.mp4")
    assert judgment.decision == "needs review"
    assert [one.rule for one in judgment.objections] == ["nudity.unchecked"]
    index.add_failure(Path("/b.mp4"), 1, 1, "it is damaged")
    assert judge(index, "/b.mp4").decision == "needs review"
    index.add_failure(Path("/a.mp4"), 1, 2, "it is damaged by now")
    assert [one.rule for one in judge(index, "/a.mp4").objections] == ["file.unread"]
    with pytest.raises(InvalidInput, match="is not in the index"):
        judge(index, "/c.mp4")


def test_a_person_decides_what_needs_review_and_nothing_else(tmp_path: Path) -> None:
    index = indexed(tmp_path, *stills(0.5))
    judgment = judge(index, "/a.mp4")
    decide(index, [judgment], "allowed", "a statue")
    again = judge(index, "/a.mp4")
    assert (again.decision, again.reviewed) == ("allowed", "allowed")
    assert again.objections == judgment.objections
    with pytest.raises(InvalidInput, match="--decide perhaps"):
        decide(index, [again], "perhaps", "")
    (tmp_path / "two").mkdir()
    refused = indexed(tmp_path / "two", *stills(0.9, 0.9))
    with pytest.raises(InvalidInput, match="is refused"):
        decide(refused, [judge(refused, "/a.mp4")], "allowed", "")


def test_a_decision_about_several_is_recorded_whole_or_not_at_all(tmp_path: Path) -> None:
    index = indexed(tmp_path, *stills(0.5))
    index.add_failure(Path("/b.mp4"), 1, 1, "it is damaged")
    with pytest.raises(InvalidInput, match=r"/b\.mp4: could not be read"):
        decide(index, [judge(index, "/a.mp4"), judge(index, "/b.mp4")], "allowed", "")
    assert judge(index, "/a.mp4").reviewed is None


def test_files_of_one_name_have_sheets_of_their_own(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite", create=True)
    judgments = []
    reason = Objection(0, 1, "needs review", "sexual", "frames.explicit", "picture", "a still scores 0.50")
    for number, folder in enumerate(("one", "two")):
        clip = tmp_path / folder / "clip.mp4"
        clip.parent.mkdir()
        write(drawn(60 + number, 9), clip)
        judgments.append(Judgment(str(clip), f"{number}" * 64, "needs review", (reason,)))
    unread = Judgment(str(tmp_path / "cut.mp4"), "", "needs review", (reason,))
    write_sheets(index, [unread, *judgments], tmp_path / "sheets")
    assert [path.name for path in sorted((tmp_path / "sheets").iterdir())] == ["clip-00000000.png", "clip-11111111.png"]


def test_faces_need_review_only_when_asked(tmp_path: Path) -> None:
    index = indexed(tmp_path, *stills(0.0), Finding(0, 1, "faces", values={"count": 2}))
    assert judge(index, "/a.mp4").decision == "allowed"
    assert judge(index, "/a.mp4", Thresholds(faces_review=2)).decision == "needs review"


def test_thresholds_are_calibrated_written_and_read(tmp_path: Path) -> None:
    curve = calibrate([0.1, 0.2, 0.6, 0.9, 0.4], [False, False, True, True, False])
    assert (curve.precision, curve.recall) == (1, 1)
    assert 0.4 < curve.best < 0.6
    assert curve.points[0][1:] == (0.4, 1.0)
    limits = Thresholds(curve.best, 0.2)
    limits.write(tmp_path / "thresholds.toml")
    assert Thresholds.read(tmp_path / "thresholds.toml") == limits
    (tmp_path / "bad.toml").write_text("explicit = 2")
    with pytest.raises(InvalidInput, match="explicit = 2 is no threshold"):
        Thresholds.read(tmp_path / "bad.toml")
    with pytest.raises(InvalidInput, match="both are needed"):
        calibrate([0.1], [True])
    (tmp_path / "labels.csv").write_text("file,explicit\na.mp4,1\nb.mp4,0\n")
    assert read_labels(tmp_path / "labels.csv") == {"a.mp4": True, "b.mp4": False}
    (tmp_path / "labels.csv").write_text("file,explicit\na.mp4,yes\n")
    with pytest.raises(InvalidInput, match="needs the columns file and explicit"):
        read_labels(tmp_path / "labels.csv")
