from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lichtspiel.errors import LichtspielError
from lichtspiel.seal import record
from lichtspiel.seal.record import KEPT_DAYS, Entry

PROMPT = "a small red fox walks left across a snowy meadow at dusk"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record that is not there yet, in a home whose name would break an address that is not escaped."""
    folder = tmp_path / "data?mode=ro&x=%41#ä" / "lichtspiel"
    monkeypatch.setenv("LICHTSPIEL_HOME", str(folder))
    return folder / "record.sqlite"


def made(age: float = 0.0, **changes: Any) -> Entry:
    """An entry of a video that was made `age` days ago."""
    id = changes.get("id", uuid.uuid4().hex)
    said: dict[str, Any] = {
        "id": id, "watermark": int(id[:8], 16), "created": datetime.now(UTC) - timedelta(days=age),
        "path": "/videos/fox.mp4", "sha256": "ab" * 32, "model": "nano", "version": "0.1.0",
        "request": {"seed": 7, "size": [64, 48], "guidance": 3.0}, "prompt": PROMPT, "negative": None,
        "prompt_digest": "cd" * 32, "inputs": ({"role": "first-frame", "sha256": "ef" * 32},),
        "verdicts": {"before": "allowed", "after": "allowed", "consent": None}, "marks": "eu", "reason": None,
    }  # fmt: skip
    return Entry(**{**said, **changes})


def added(*ages: float, **changes: Any) -> list[Entry]:
    """Entries of these ages, in the record."""
    entries = [made(age, **changes) for age in ages]
    for entry in entries:
        record.add(entry)
    return entries


def newest_first(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.created, entry.id), reverse=True)


LOOKUPS: list[Callable[[], object]] = [
    lambda: record.find("0" * 32),
    lambda: record.find_watermark(0),
    lambda: list(record.entries()),
    lambda: record.export(io.StringIO()),
]
NOTHING = [None, [], [], 0]


def raw(file: Path) -> closing[sqlite3.Connection]:
    """The file as any other program meets it."""
    return closing(sqlite3.connect(file, isolation_level=None, timeout=30))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)


def refused(action: Callable[[], object]) -> str:
    """What a person is told: one line, with the file and without the prompt."""
    with pytest.raises(LichtspielError) as caught:
        action()
    told = str(caught.value)
    assert ("\n" in told, "record.sqlite" in told, PROMPT in told) == (False, True, False)
    return told


def test_what_was_added_is_found_and_looking_makes_nothing(file: Path) -> None:
    assert [look() for look in LOOKUPS] == NOTHING
    assert not file.parent.parent.exists()
    file.parent.mkdir(parents=True)
    assert [look() for look in LOOKUPS] == NOTHING
    assert os.listdir(file.parent) == []
    file.touch()  # as when the first process was killed before it wrote
    assert ([look() for look in LOOKUPS], file.stat().st_size) == (NOTHING, 0)
    (entry,) = added(0)
    assert [look() for look in LOOKUPS] == [None, [], [entry], 1]
    assert record.find(entry.id) == entry
    assert record.find_watermark(int(entry.id[:8], 16)) == [entry]
    assert [record.find(wrong) for wrong in ("", "\udcff", "'", entry.id[:8], entry.id + "\n")] == [None] * 5
    assert os.listdir(file.parent) == ["record.sqlite"]


NAMES = st.text(st.characters(exclude_categories=[]), max_size=30)  # with lone surrogates: paths that are no text
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)
TEXTS = (
    st.none() | NAMES | st.sampled_from(["雪原の赤い狐", "лиса\n\0'; DROP TABLE entry; --", "e\u0301 👩‍👩‍👧 \u2028"])
)
CHANGES = {
    **dict.fromkeys(("prompt", "negative", "reason"), TEXTS),
    **dict.fromkeys(("request", "verdicts"), st.dictionaries(NAMES, VALUES, max_size=3)),
    "path": NAMES,
    "inputs": st.lists(st.fixed_dictionaries({"role": NAMES, "sha256": NAMES}), max_size=2).map(tuple),
    "created": st.integers(-12, 14).map(lambda hours: datetime.now(timezone(timedelta(hours=hours)))),
}


@settings(deadline=None, max_examples=40)
@given(st.fixed_dictionaries(CHANGES))
def test_everything_comes_back_as_it_was(changes: dict[str, Any]) -> None:
    entry, out = made(**changes), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("LICHTSPIEL_HOME", folder)
        record.add(entry)
        assert record.find(entry.id) == entry
        assert record.export(out) == 1
    said = json.loads(out.getvalue())
    assert (out.getvalue().isascii(), out.getvalue().count("\n")) == (True, 1)
    assert said == entry.to_json()
    assert list(said) == [field.name for field in dataclasses.fields(Entry)]
    assert datetime.fromisoformat(said["created"]).utcoffset() == timedelta(0)


def test_watermarks_may_be_shared_or_missing(file: Path) -> None:
    shared = [made(age, id="0000cafe" + uuid.uuid4().hex[8:]) for age in (2.0, 0.5, 90.0)]
    unmarked = made(id="0000cafe" + "0" * 24, watermark=None, marks="none", reason="the user labels it")
    for entry in [*shared, unmarked, made()]:
        record.add(entry)
    assert record.find_watermark(0xCAFE) == [shared[1], shared[0], shared[2]]
    assert record.find(unmarked.id) == unmarked


def test_lists_are_newest_first_and_exports_oldest_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_PAGE", 3)  # so that eight entries need several pages
    entries = newest_first([*added(1, 5, 2, 4, 6, 3), *added(0, 0, created=datetime.now(UTC))])
    assert list(record.entries()) == entries
    assert [list(record.entries(limit)) for limit in range(10)] == [entries[:limit] for limit in range(10)]
    out = io.StringIO()
    assert record.export(out) == 8
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [entry.to_json() for entry in entries[::-1]]


def test_a_list_that_is_read_slowly_keeps_nobody_waiting(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_PAGE", 2)
    older = added(4, 3, 2, 1)
    listing = record.entries()
    first = next(listing)
    added(0)
    assert [first, *listing] == older[::-1]


def test_an_id_is_recorded_once(file: Path) -> None:
    entry, old = added(0, KEPT_DAYS + 1)
    assert f"an entry {entry.id} already" in refused(lambda: record.add(dataclasses.replace(entry, marks="cn")))
    assert list(record.entries()) == [entry, old]  # nothing is forgotten either when nothing is added


@pytest.mark.parametrize("changes", [{"id": "AB" * 16}, {"watermark": 5}, {"created": datetime(2026, 11, 22)}])
def test_entries_that_could_not_be_looked_up_are_our_mistake(file: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        added(0, **changes)
    assert not file.parent.exists()
    assert PROMPT not in repr(made(negative=PROMPT))


UMASK = """
import json, os, sys
from lichtspiel.seal import record
os.umask(0)
folder, said = os.environ["LICHTSPIEL_HOME"], json.loads(sys.argv[1])
def modes(event, details):
    if event == "sqlite3.connect":  # Python tells when SQLite is about to open a file
        print(*[oct(os.stat(path).st_mode) for path in (folder, folder + "/record.sqlite")])
sys.addaudithook(modes)
record.add(record.Entry(**{**said, "created": record.datetime.fromisoformat(said["created"])}))
"""


def test_only_the_owner_may_read_from_the_first_instant(file: Path) -> None:
    done = run(UMASK, json.dumps(made().to_json()))
    assert (done.returncode, done.stdout.split()) == (0, ["0o40700", "0o100600"])
    file.chmod(0o644)  # as after a copy
    added(0)
    assert mode(file) == 0o600


def test_the_journal_is_for_the_owner_only_and_writers_wait_for_readers(file: Path) -> None:
    added(1)
    journal, before = file.with_name("record.sqlite-journal"), os.umask(0)
    try:
        with raw(file) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entry").fetchall()  # what was seen must stay as long as this is open
            writer = threading.Thread(target=added, args=(0,))
            writer.start()
            while not journal.exists():
                assert writer.is_alive()
                time.sleep(0.005)
            assert {path.name: mode(path) for path in file.parent.iterdir()} == {file.name: 0o600, journal.name: 0o600}
        writer.join()
    finally:
        os.umask(before)
    assert (os.listdir(file.parent), len(list(record.entries()))) == (["record.sqlite"], 2)


def write(start: Any, name: str) -> None:
    start.wait()
    added(*[0] * 50, marks=name)


SPAWN = multiprocessing.get_context("spawn")


@pytest.mark.parametrize("kind", [(SPAWN.Process, SPAWN.Barrier), (threading.Thread, threading.Barrier)])
def test_two_writers_that_begin_the_record_lose_none(file: Path, kind: tuple[Any, Any]) -> None:
    worker, start = kind[0], kind[1](2)
    workers = [worker(target=write, args=(start, name)) for name in "ab"]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert Counter(entry.marks for entry in record.entries()) == {"a": 50, "b": 50}


KILLED = """
import os, sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("PRAGMA cache_size = 1")  # so that half of the work is in the file already
base.execute("BEGIN IMMEDIATE")
for number in range(200):
    base.execute("INSERT INTO entry VALUES (?, 0, 'never', ?)", (str(number), "x" * 4000))
os._exit(7)
"""


def test_who_is_killed_while_writing_takes_nothing_along(file: Path) -> None:
    entries = added(0, 1)
    assert run(KILLED, str(file)).returncode == 7
    assert sorted(os.listdir(file.parent)) == ["record.sqlite", "record.sqlite-journal"]
    assert list(record.entries()) == entries
    assert os.listdir(file.parent) == ["record.sqlite"]


CHANGING = """
UPDATE entry SET body = '{}'
UPDATE entry SET created = '2000'
UPDATE OR REPLACE entry SET id = id
INSERT INTO entry SELECT * FROM entry WHERE true ON CONFLICT DO UPDATE SET body = '{}'
REPLACE INTO entry SELECT id, watermark, created, '{}' FROM entry
DELETE FROM entry WHERE watermark IS NOT NULL
"""


@pytest.mark.parametrize("statement", CHANGING.strip().splitlines())
def test_the_database_itself_refuses(file: Path, statement: str) -> None:
    entries = added(0, KEPT_DAYS - 0.01)
    with raw(file) as base, pytest.raises(sqlite3.IntegrityError, match="the record is append-only"):
        base.execute(statement)
    assert list(record.entries()) == entries


def test_prompts_can_be_erased_and_nothing_else(file: Path) -> None:
    secret = {"before": {"rule": "adult", "detail": "read: 'zebra'"}, "after": None, "consent": "Ada agreed"}
    entry = made(prompt="my secret zebra project", negative="blur", verdicts=secret)
    other = made(prompt="another zebra")
    record.add(entry)
    record.add(other)
    left = record.erase_prompt(entry.id)
    assert (left.prompt, left.negative, left.prompt_digest) == (None, None, entry.prompt_digest)
    assert left.verdicts == {"before": {"rule": "adult", "detail": None}, "after": None, "consent": "Ada agreed"}
    assert (left.path, left.request, left.created) == (entry.path, entry.request, entry.created)
    assert b"secret zebra" not in file.read_bytes()
    assert record.find(other.id) == other
    assert record.erase_prompt(entry.id) == left  # once more changes nothing
    for statement in ("UPDATE entry SET body = '{}'", "UPDATE entry SET created = '2000'"):
        with raw(file) as base, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            base.execute(statement)
    with pytest.raises(LichtspielError, match="has no entry"):
        record.erase_prompt("0" * 32)


def test_a_record_from_before_can_be_erased_in(file: Path) -> None:
    (entry,) = added(0)
    with raw(file) as base:
        base.execute("DROP TRIGGER entry_is_never_changed")
        base.execute(
            "CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry "
            "BEGIN SELECT RAISE(ABORT, 'the record is append-only: an entry is never changed'); END"
        )
    assert record.erase_prompt(entry.id).prompt is None


def test_entries_are_found_by_id_and_words(file: Path) -> None:
    first, second = made(prompt="A red Fox", age=1), made(prompt=None, model="t2v-1.3b", path="/videos/b.mp4")
    record.add(first)
    record.add(second)
    assert [entry.id for entry in record.search("red fox")] == [first.id]
    assert [entry.id for entry in record.search(second.id[:9].upper())] == [second.id]
    assert [entry.id for entry in record.search("/videos/")] == [second.id, first.id]
    assert list(record.search("nothing like it")) == []


# A minute and more from the limit: a test takes time, too.
AGES = st.floats(-1, KEPT_DAYS - 0.001) | st.floats(KEPT_DAYS + 0.001, 4000) | st.just(0.0)


@settings(deadline=None, max_examples=15)
@given(st.lists(AGES, min_size=1, max_size=8))
def test_what_is_older_than_the_retention_is_forgotten_and_nothing_else(ages: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("LICHTSPIEL_HOME", folder)
        *earlier, last = added(*ages)
        kept = [entry for entry, age in zip(earlier, ages, strict=False) if age < KEPT_DAYS]
        assert list(record.entries()) == newest_first([*kept, last])
        with raw(Path(folder, "record.sqlite")) as base:  # anybody may delete what is too old, and only that
            base.execute("DELETE FROM entry WHERE id = ? AND ?", (last.id, ages[-1] > KEPT_DAYS))
        assert len(list(record.entries())) == len(kept) + (ages[-1] < KEPT_DAYS)


def test_a_forgotten_prompt_is_no_longer_in_the_file(file: Path) -> None:
    added(KEPT_DAYS + 1, prompt="words of long ago")
    assert b"words of long ago" in file.read_bytes()
    added(0)
    assert b"words of long ago" not in file.read_bytes()


DAMAGED, FOREIGN = "damaged.* or move it away", "no record of Lichtspiel; move it away"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda content: b"this is my shopping list\n" * 100, DAMAGED),
        (lambda content: content[:5000], DAMAGED),
        (lambda content: content[:100] + b"\xff" * 4000 + content[4100:], DAMAGED),
        ("DROP TABLE entry", DAMAGED),
        ("PRAGMA application_id = 5", FOREIGN),
        ("PRAGMA application_id = 0", FOREIGN),
        ("PRAGMA user_version = 2", "has layout 2 .* update Lichtspiel"),
    ],
)
def test_what_is_no_sound_record_is_named_and_left_alone(file: Path, spoil: Any, told: str) -> None:
    added(*range(9))
    if isinstance(spoil, str):
        with raw(file) as base:
            base.execute(spoil)
    else:
        file.write_bytes(spoil(file.read_bytes()))
    file.chmod(0o644)
    before = file.read_bytes()
    for action in [*LOOKUPS, lambda: added(0)]:
        assert re.search(told, refused(action))
    assert (file.read_bytes(), os.listdir(file.parent)) == (before, ["record.sqlite"])
    assert mode(file) == 0o644 or told is DAMAGED  # another program's file keeps its mode


@pytest.mark.parametrize("body", ["{}", "nonsense", "[]", "7", b"\xff\xfe\xfa", json.dumps(made().to_json())])
def test_damaged_rows_do_not_hide_the_others(file: Path, body: str | bytes) -> None:
    entries = added(1, 2, 3)
    ids = [f"{number:032x}" for number in range(5)]
    with raw(file) as base:
        for id in ids:
            moment = made(1.5).to_json()["created"]
            base.execute("INSERT INTO entry VALUES (?, 5, ?, CAST(? AS TEXT))", (id, moment, body))
    listing, out = record.entries(), io.StringIO()
    assert [next(listing) for _ in entries] == entries
    assert "and 2 more; all other entries can be read" in refused(lambda: next(listing))
    refused(lambda: record.export(out))
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [entry.to_json() for entry in entries[::-1]]
    assert ids[1] in refused(lambda: record.find(ids[1]))
    assert ", ".join(ids[:1:-1]) in refused(lambda: record.find_watermark(5))
    assert [*record.entries(1), record.find(entries[2].id)] == [entries[0], entries[2]]


def test_who_holds_the_file_is_waited_for_and_then_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added(0)
    monkeypatch.setattr(record, "_PATIENCE", 0.05)
    with raw(file) as base:
        base.execute("BEGIN EXCLUSIVE")
        for action in [*LOOKUPS, lambda: added(0)]:
            assert "another program has held it for 0.05 seconds" in refused(action)


def test_what_stands_in_the_way_is_named(file: Path) -> None:
    file.mkdir(parents=True, mode=0o755)
    for action in [*LOOKUPS, lambda: added(0)]:
        assert "set LICHTSPIEL_HOME to another folder" in refused(action)
    assert mode(file) == 0o755
    file.rmdir()
    file.parent.rmdir()
    file.parent.write_text("a file where the folder should be")
    assert [look() for look in LOOKUPS] == NOTHING
    assert "File exists; make room" in refused(lambda: added(0))


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o500, 0o600), (0o500, 0o400), (0o700, 0o000), (0o000, 0o600)])
def test_without_permission(folder_mode: int, file_mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own cannot be reached by another user
        monkeypatch.setenv("LICHTSPIEL_HOME", folder)
        (entry,) = added(0)
        user = os.geteuid() or 65534  # no mode keeps root out
        for path, bits in ((f"{folder}/record.sqlite", file_mode), (folder, folder_mode)):
            os.chown(path, user, -1)
            os.chmod(path, bits)
        os.seteuid(user)
        try:
            if folder_mode == 0o500:
                assert [look() for look in LOOKUPS] == [None, [], [entry], 1]
            else:
                for look in LOOKUPS:
                    assert re.search("cannot be read: .* make the file readable for you", refused(look))
            told = refused(lambda: added(0))
            assert re.search("cannot be written: .* its folder writable for you, or set LICHTSPIEL_HOME", told)
        finally:
            os.seteuid(os.getuid())
            os.chmod(folder, 0o700)
        assert os.listdir(folder) == ["record.sqlite"]
