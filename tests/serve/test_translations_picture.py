"""Text in the picture over HTTP: read with the draft, changed by a person, and made anew in the video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")
pytest.importorskip("rapidocr", reason="rapidocr is in the extra understand")

from lichtspiel.media.video import read_video
from lichtspiel.seal import verify
from lichtspiel.serve.queue.jobs import DRAFT
from tests.inference.tiny import registered
from tests.serve.live import live, settings, worker
from tests.serve.test_translations import Served, get, render, send
from tests.translate.test_translators import apertium
from tests.workflows.test_translate_picture import FPS, SHOWN, SIZE, street, words

__all__ = ["apertium", "street", "words"]


@pytest.fixture
def served(random_nano: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registered(random_nano, tmp_path_factory.mktemp, ["tiny-vace"]) as folders:
        chosen = settings(tmp_path / "server", folders["tiny-vace"], models=("tiny-vace",))
        with live(chosen) as found:
            yield found


def drafted(served: Served, street: Path, words: Path, **fields: str) -> str:
    """The id of a finished draft in Spanish."""
    files = {"video": street.read_bytes(), "subtitles": words.read_bytes()}
    sent = send(f"{served[1]}/v1/videos/translations", data={"to": "es", "from": "en", **fields}, files=files).json()
    assert worker(served[0]).once()
    id: str = sent["id"]
    return id


@pytest.mark.usefixtures("apertium")
def test_text_is_changed_by_a_person_and_made_anew(served: Served, street: Path, words: Path, tmp_path: Path) -> None:
    server, address = served
    assert get(f"{address}/v1/languages").json()["remakes_pictures"]
    id = drafted(served, street, words, picture_text="tell")
    (found,) = get(f"{address}/v1/videos/translations/{id}").json()["written"]
    assert (found["text"], found["translation"]) == ("BAKERY", "eng-spa: BAKERY")

    asked: dict[str, Any] = {"picture_text": "replace", "texts": ["PANADERÍA\n"]}
    video = render(address, id, **asked).json()
    lost = server.jobs.claim("lost", ["translation"], 30.0)
    assert lost is not None
    assert lost.request["written"][0]["translation"] == "PANADERÍA"
    server.jobs.give_back(lost)
    busy = worker(server)
    assert busy.once()
    assert busy.pipeline is None
    done = get(f"{address}/v1/videos/{video['id']}").json()
    assert (done["status"], done["error"]) == ("completed", None)
    made = tmp_path / "made.mp4"
    made.write_bytes(get(f"{address}/v1/videos/{video['id']}/content").content)
    result = server.jobs.get(video["id"], None).result
    assert result is not None
    assert (result["picture"], result["written"][0]["translation"]) == ("edited", "PANADERÍA")
    before, after = (np.stack([*read_video(path)]).astype(int) for path in (street, made))
    left, top, right, bottom = found["box"]
    rows, columns = (slice(round(low * side), round(high * side)) for low, high, side in
                     ((top, bottom, SIZE[0]), (left, right, SIZE[1])))  # fmt: skip
    apart = np.abs(before - after)[:, rows, columns].mean(axis=(1, 2, 3))
    shown = round((SHOWN[0] + SHOWN[1]) / 2 * FPS)
    assert apart[shown] > 10 * apart[0]
    report = verify(made)
    assert (report.credentials.state, report.watermark.found) == ("trusted", True)
    assert "AI-generated text in the picture" in (report.labels.comment or "")


@pytest.mark.usefixtures("apertium")
def test_what_cannot_be_replaced_is_said_before_it_waits(served: Served, street: Path, words: Path) -> None:
    server, address = served
    plain = drafted(served, street, words)
    told = drafted(served, street, words, picture_text="tell")
    for id, wish, param, said in (
        (plain, {"picture_text": "replace"}, "picture_text", "knows of no text in the picture"),
        (told, {"picture_text": "tell"}, "picture_text", "it is replace"),
        (told, {"texts": ["a"]}, "texts", "nothing is replaced"),
        (told, {"picture_text": "replace", "texts": ["a", "b"]}, "texts", "a list of 1 texts"),
        (told, {"picture_text": "replace", "texts": [None]}, "texts", "no text has a translation"),
        (told, {"picture_text": "replace", "texts": [3]}, "texts", "at most 200 characters"),
    ):
        error = render(address, id, **wish).json()["error"]
        assert (error["param"], said in error["message"]) == (param, True), error
    refused = render(address, told, picture_text="replace", texts=["a naked child"])
    assert refused.status_code == 403, "the policy reads what is to stand there"
    assert server.jobs.counts()["queued"] == 0


def test_a_server_without_such_a_model_says_so(random_nano: Path, tmp_path: Path, street: Path, words: Path) -> None:
    with live(settings(tmp_path / "server", random_nano)) as served:
        assert not get(f"{served[1]}/v1/languages").json()["remakes_pictures"]
        id = drafted(served, street, words)
        error = render(served[1], id, picture_text="replace").json()["error"]
        assert "makes no pictures anew" in error["message"]
        assert DRAFT in served[0].jobs.get(id, None).model
