"""The record that machines share: the same rules as on one computer, and every machine finds what any of them made."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from PIL import Image
from sqlalchemy import text

from lichtspiel.cli import app, errors
from lichtspiel.cli.record import record_at
from lichtspiel.errors import InvalidInput, LichtspielError
from lichtspiel.seal import record as local
from lichtspiel.seal.record import KEPT_DAYS, Entry
from lichtspiel.serve.errors import DatabaseError
from lichtspiel.serve.queue import record as shared
from lichtspiel.serve.queue.database import Database
from lichtspiel.serve.queue.record import Record, record_of
from lichtspiel.serve.server import open_server
from lichtspiel.storage import file_sha256
from tests.seal.test_record import made
from tests.serve.live import SMALL, settings, warm
from tests.serve.test_worker import ask


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


def newest_first(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.created.timestamp(), entry.id), reverse=True)


def test_every_entry_comes_back_as_it_was(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_PAGE", 2)
    kept, now = Record(database), datetime.now(UTC)
    verdicts: dict[str, Any] = {"before": {"rule": "adult", "detail": "says zebra"}, "after": None, "consent": "Ada"}
    entries = [made(age, created=now - timedelta(days=age)) for age in (0, 1, 1, 2)]
    entries.append(made(3, verdicts=verdicts, prompt="\0 \ud800", sha256="12" * 32, watermark=None))
    for entry in entries:
        kept.add(entry)
    assert list(kept.entries()) == newest_first(entries)
    assert list(kept.entries(newest_first=False)) == newest_first(entries)[::-1]
    assert list(kept.entries(3)) == newest_first(entries)[:3]
    assert kept.find(entries[4].id) == entries[4] == kept.find_sha256("12" * 32)
    assert [kept.find(odd) for odd in ("", "\0" * 32, "'" * 32, "0" * 32)] == [None] * 4
    assert kept.find_watermark(int(entries[1].id[:8], 16)) == [entries[1]]
    with pytest.raises(LichtspielError, match="already"):
        kept.add(entries[0])
    kept.check()
    kept.check()
    assert len(list(kept.entries())) == 5
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE record RENAME TO away"))
    with pytest.raises(DatabaseError):
        kept.check()


def test_prompts_can_be_erased_and_nothing_else(database: Database) -> None:
    kept, id = Record(database), uuid.uuid4().hex
    entry = made(id=id, verdicts={"before": {"rule": "adult", "detail": "says zebra"}, "after": None, "consent": "Ada"})
    kept.add(entry)
    left = kept.erase_prompt(id)
    assert (left.prompt, left.negative, left.prompt_digest, left.path) == (None, None, entry.prompt_digest, entry.path)
    assert left.verdicts == {"before": {"rule": "adult", "detail": None}, "after": None, "consent": "Ada"}
    assert kept.erase_prompt(id) == left == kept.find(id)
    with pytest.raises(LichtspielError, match="no entry"):
        kept.erase_prompt("0" * 32)


def test_what_is_older_than_the_retention_is_forgotten(database: Database) -> None:
    kept = Record(database)
    kept.add(old := made(KEPT_DAYS + 0.1))
    kept.add(young := made(KEPT_DAYS - 0.1))
    assert list(kept.entries()) == [young]
    assert kept.find(old.id) is None


def test_the_database_itself_refuses(server: str) -> None:
    url = f"postgresql://lichtspiel@/{_new_database(server)}?host={server}"
    database = Database(url)
    Record(database).add(made())
    for statement in (
        "DELETE FROM record", "UPDATE record SET body = '{}'", "UPDATE record SET created = 0",
        "UPDATE record SET texts = '{}'", "UPDATE record SET watermark = NULL",
    ):  # fmt: skip
        with pytest.raises(DatabaseError, match="append-only"), database.writing() as connection:
            connection.execute(text(statement))
    database.close()


def _new_database(server: str) -> str:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(host=server, user="lichtspiel", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return name


def test_any_machine_finds_what_another_one_made(
    server: str, random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://lichtspiel@/{_new_database(server)}?host={server}"
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "worker"))
    pod = open_server(settings(tmp_path, random_nano, database=url))
    job = ask(pod, tmp_path, **SMALL)
    assert warm(pod).once()
    done = pod.jobs.get(job.id, None)
    pod.files.fetch(str(done.video), tmp_path / "v.mp4")
    pod.jobs.close()
    assert list(local.entries()) == []

    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "another"))
    with closing(Database(url)) as database:
        (entry,) = record_of(database).entries()
    assert entry.path == done.video  # not a folder of the worker, which is gone
    assert entry.sha256 == done.result["seal"]["sha256"]  # type: ignore[index]

    def run(*words: str, code: int = 0) -> str:
        found = errors.run(lambda: app([*words, "--database", url], prog_name="lichtspiel", standalone_mode=False))
        assert found == code
        return capsys.readouterr().out

    assert entry.id[:8] in run("record", "list")
    assert entry.id in run("record", "find", "turtle", "--json")
    assert entry.id in run("record", "export")
    assert "turtle" in run("record", "show", entry.id[:12])
    run("record", "erase", entry.id)
    assert "turtle" not in run("record", "show", entry.id)
    plain = made(path="x", sha256=file_sha256(unmarked(tmp_path / "plain.png")))
    with closing(Database(url)) as database:
        record_of(database).add(plain)
    assert "byte for byte" in run("verify", str(tmp_path / "plain.png"))


def unmarked(path: Path) -> Path:
    Image.new("RGB", (64, 64), "teal").save(path)
    return path


def test_a_server_on_one_computer_records_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    with closing(Database(url)) as database:
        assert record_of(database) is local
    with pytest.raises(InvalidInput, match="leave --database out"), record_at(url):
        pass
