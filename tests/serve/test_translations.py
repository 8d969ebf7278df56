"""Translations over HTTP: words first, then the video of the words as a person has left them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")
pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")

from lichtspiel.seal import verify
from lichtspiel.serve.api.state import Server
from lichtspiel.serve.api.translation_form import DRAFT, RENDER
from lichtspiel.translate.translators import apertium_pairs
from lichtspiel.workflows.translate import LIPS
from tests.serve.live import HTTP, live, settings, worker
from tests.translate.conftest import talk

__all__ = ["talk"]

Served = tuple[Server, str]
GERMAN = """1
00:00:00,500 --> 00:00:03,000
Mein Bruder arbeitet in einer Stadt.

2
00:00:04,250 --> 00:00:07,000
Sie sagte, das Wetter werde gut.
"""
LINES = [
    {"start": 0.5, "end": 3.0, "text": "Mein Bruder arbeitet in einer kleinen Stadt."},
    {"start": 4.25, "end": 7.0, "text": ""},
    {"start": 4.25, "end": 7.0, "text": "Sie sagte, das\nWetter werde schön."},
]
get, send, remove = HTTP.get, HTTP.post, HTTP.delete


@pytest.fixture
def served(random_nano: Path, tmp_path: Path) -> Iterator[Served]:
    with live(settings(tmp_path / "server", random_nano)) as found:
        yield found


def asked(address: str, talk: Path, *, subtitles: str | None = GERMAN, **fields: str) -> httpx.Response:
    files: dict[str, Any] = {"video": ("talk.mp4", talk.read_bytes(), "video/mp4")}
    if subtitles is not None:
        files["subtitles"] = ("talk.srt", subtitles.encode(), "text/plain")
    return send(f"{address}/v1/videos/translations", data={"to": "de", **fields}, files=files)


def drafted(served: Served, talk: Path) -> str:
    """The id of a finished draft."""
    server, address = served
    id: str = asked(address, talk).json()["id"]
    assert worker(server).once()
    return id


def render(address: str, id: str, **sent: Any) -> httpx.Response:
    return send(f"{address}/v1/videos/translations/{id}/render", json=sent)


def pictures(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [hashlib.sha256(bytes(packet)).hexdigest() for packet in container.demux(video=0) if packet.size]


def test_words_are_edited_and_the_second_job_speaks_them(served: Served, talk: Path, tmp_path: Path) -> None:
    server, address = served
    first = asked(address, talk, metadata='{"shelf": "A"}').json()
    assert (first["object"], first["status"], first["lines"]) == ("video.translation", "queued", None)
    assert worker(server).once()
    done = get(f"{address}/v1/videos/translations/{first['id']}").json()
    assert (done["status"], done["to"], done["metadata"]) == ("completed", "de", {"shelf": "A"})
    assert [line["text"] for line in done["lines"]] == [
        line for line in GERMAN.splitlines() if line.startswith(("Mein", "Sie"))
    ]
    assert done["lines"][0]["start"] == 0.5

    sent = {"lines": LINES, "voice": True, "original": "remove", "consent": "nobody: a program speaks"}
    video = render(address, first["id"], **sent).json()
    assert (video["model"], video["remixed_from_video_id"], video["seconds"]) == (RENDER, first["id"], "8")
    assert worker(server).once()
    video = get(f"{address}/v1/videos/{video['id']}").json()
    assert (video["status"], video["error"]) == ("completed", None)
    assert LIPS in video["notes"]
    made = tmp_path / "made.mp4"
    made.write_bytes(get(f"{address}/v1/videos/{video['id']}/content").content)
    assert pictures(made) == pictures(talk)
    report = verify(made)
    assert report.credentials.state == "trusted"
    assert report.credentials.source_type == "compositeSynthetic"
    with av.open(str(made)) as container:
        texts = [bytes(packet)[2:].decode() for packet in container.demux(subtitles=0) if packet.size > 2]
    assert [text.replace("\n", " ") for text in texts] == [
        "Mein Bruder arbeitet in einer kleinen Stadt.", "Sie sagte, das Wetter werde schön.",
    ]  # fmt: skip
    thumbnail = tmp_path / "still.png"
    thumbnail.write_bytes(get(f"{address}/v1/videos/{video['id']}/content?variant=thumbnail").content)
    assert verify(thumbnail).credentials.source_type == "humanEdits"
    entry = server.jobs.get(video["id"], None)
    assert entry.bytes is not None
    assert entry.bytes > len(talk.read_bytes())


def test_drafts_are_a_list_of_their_own_and_leave_with_their_files(served: Served, talk: Path) -> None:
    server, address = served
    id = drafted(served, talk)
    assert [one["id"] for one in get(f"{address}/v1/videos/translations").json()["data"]] == [id]
    assert get(f"{address}/v1/videos").json()["data"] == []
    original = get(f"{address}/v1/videos/translations/{id}/original")
    assert original.content == talk.read_bytes()
    assert get(f"{address}/v1/videos/{id}/content").status_code == 404
    assert send(f"{address}/v1/videos/{id}/remix", json={"prompt": "a taxi"}).json()["error"]["param"] == "id"
    assert remove(f"{address}/v1/videos/{id}").json()["deleted"]
    assert [*Path(server.settings.storage).rglob("*.*")] == []


def test_a_voice_needs_consent_before_it_is_queued(served: Served, talk: Path) -> None:
    server, address = served
    id = drafted(served, talk)
    answer = render(address, id, voice=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "refused_by_policy")
    assert "consent" in answer.json()["error"]["message"]
    assert render(address, id, lines=[{"start": 0, "end": 1, "text": "a naked child"}]).status_code == 403
    assert server.jobs.counts()["queued"] == 0


def test_a_lost_worker_costs_nothing_but_time(
    served: Served, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    server, address = served
    id = asked(address, talk).json()["id"]
    lost = server.jobs.claim("lost", [DRAFT], 30.0)
    assert lost is not None
    assert not worker(server).once()
    wall = server.jobs.clock
    monkeypatch.setattr(server.jobs, "clock", lambda: wall() + 100)  # the lease runs out
    assert worker(server).once()
    assert get(f"{address}/v1/videos/{id}").json()["status"] == "completed"
    assert server.jobs.get(id, None).attempt == 2


def test_a_draft_can_be_cancelled_and_is_not_rendered(served: Served, talk: Path) -> None:
    server, address = served
    id = asked(address, talk).json()["id"]
    assert "queued" in render(address, id).json()["error"]["message"]
    assert send(f"{address}/v1/videos/{id}/cancel").json()["status"] == "cancelled"
    assert not worker(server).once()


WRONG: tuple[tuple[dict[str, str], str, str], ...] = (
    ({"to": "klingon"}, "to", "no language that is known"),
    ({"to": "de", "from": "de"}, "to", "the language of the video"),
    ({"to": "de", "translator": "chat:http://169.254.169.254/"}, "translator", "no such field"),
    ({"to": "de", "metadata": "x"}, "metadata", "object"),
)
WRONG_LINES: tuple[tuple[Any, str], ...] = (
    ([], "at least one"),
    ([{"start": 1, "end": 0.5, "text": "a"}], "end is after start"),
    ([{"start": 9, "end": 10, "text": "a"}], "from 0 to 8.00"),
    ([{"start": 0, "end": 1, "text": 3}], "1000 characters"),
    ([{"start": True, "end": 2, "text": "a"}], "times are seconds"),
    ([{"start": 0, "end": 1, "text": "a", "speaker": -1}], "speaker"),
    ("x", "a list"),
)


def test_what_is_wrong_is_answered_at_once(served: Served, talk: Path) -> None:
    server, address = served
    for fields, param, said in WRONG:
        error = asked(address, talk, **fields).json()["error"]
        assert (error["param"], said in error["message"]) == (param, True), error
    assert sum(server.jobs.counts().values()) == 0
    id = drafted(served, talk)
    for lines, said in WRONG_LINES:
        error = render(address, id, lines=lines).json()["error"]
        assert (error["param"], said in error["message"]) == ("lines", True), error
    endless = {"start": 0, "end": 10**400, "text": "a"}
    assert render(address, id, lines=[endless]).json()["parameters"]["to"] == "de"
    assert worker(server).once()
    for wish in ({"voice": "x"}, {"original": "louder"}, {"original": ["keep"]}, {"original": "keep"}, {"engine": "x"}):
        assert render(address, id, **wish).json()["error"]["param"] == next(iter(wish)), wish
    assert server.jobs.counts()["queued"] == 0


GLOSSARY = "Stadt = Ort\n"


def test_a_glossary_and_text_in_the_picture_go_with_a_draft(served: Served, talk: Path, tmp_path: Path) -> None:
    server, address = served

    def sent(fields: dict[str, str], **files: str) -> Any:
        content = {name: (name, text.encode(), "text/plain") for name, text in files.items()}
        video = {"video": ("talk.mp4", talk.read_bytes(), "video/mp4")}
        return send(f"{address}/v1/videos/translations", data={"to": "es", **fields}, files={**video, **content}).json()

    assert "drop one or the other" in sent({}, subtitles=GERMAN, glossary=GLOSSARY)["error"]["message"]
    wrong = sent({}, transcript=GERMAN, glossary="= nothing")["error"]
    assert (wrong["param"], "line 1 is no 'word = translation'" in wrong["message"]) == ("glossary", True)
    assert str(tmp_path) not in wrong["message"]
    assert "when the video is rendered" in sent({"picture_text": "replace"}, subtitles=GERMAN)["error"]["message"]
    pytest.importorskip("rapidocr", reason="rapidocr is in the extra understand")
    id = sent({"picture_text": "tell"}, subtitles=GERMAN)["id"]
    assert worker(server).once()
    done = get(f"{address}/v1/videos/translations/{id}").json()
    assert (done["status"], done["written"]) == ("completed", [])
    assert "no text was found in the picture" in done["notes"]


def test_notes_name_no_flags_of_the_command_line(
    served: Served, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from lichtspiel.serve.workers import translation

    _, address = served
    plain = translation.draft

    def noted(*given: Any, **more: Any) -> Any:
        return replace(plain(*given, **more), notes=("line 1: write it in with --subtitles",))

    monkeypatch.setattr(translation, "draft", noted)
    done = get(f"{address}/v1/videos/translations/{drafted(served, talk)}").json()
    assert done["notes"] == ["line 1: write it in with subtitles"]


def test_the_voice_says_what_it_is_where_it_is_asked_to(served: Served, talk: Path) -> None:
    server, address = served
    id = drafted(served, talk)
    wishes = {"lines": LINES, "voice": True, "original": "remove", "consent": "nobody: a program speaks"}
    for name in ("spoken_label", "lips"):
        assert render(address, id, **{name: True}).json()["error"]["param"] == name, "there is no voice"
    assert "nothing on this server moves lips" in render(address, id, **wishes, lips=True).json()["error"]["message"]
    video = render(address, id, **wishes, spoken_label=True).json()
    assert worker(server).once()
    video = get(f"{address}/v1/videos/{video['id']}").json()
    assert any("the voice says:" in note and "KI-generiert" in note for note in video["notes"]), video


def test_what_nothing_translates_is_said_before_it_waits(served: Served, talk: Path) -> None:
    error = asked(served[1], talk, subtitles=None).json()["error"]
    assert error["param"] == "to"
    assert "from English to German" in error["message"]
    assert "--" not in error["message"]


def test_a_silent_clip_fails_with_what_it_is(served: Served, tmp_path: Path) -> None:
    import numpy as np

    from tests.translate.conftest import video

    if not any(pair[:2] == ("en", "es") for pair in apertium_pairs()):
        pytest.skip("Apertium's English-Spanish pair is not installed; on Debian: apt install apertium-eng-spa")
    server, address = served
    silent = video(tmp_path / "silent.mp4", np.zeros(48_000, np.float32), seconds=1)
    id = asked(address, silent, subtitles=None, to="es").json()["id"]
    worker(server).once()
    error = get(f"{address}/v1/videos/{id}").json()["error"]
    assert error == {"code": "invalid_request", "message": error["message"]}
    assert error["message"].startswith("video: its sound track is silent")


def test_the_languages_are_those_of_this_machine(served: Served) -> None:
    told = get(f"{served[1]}/v1/languages").json()
    assert told["available"]
    assert "de" in told["voices"]
    assert told["pairs"] == [list(pair[:2]) for pair in apertium_pairs()]
    assert told["languages"]["de"] == "German"
    assert ("de" in told["spoken_label"], told["lips"]) == (True, False)
    assert json.dumps(told)
