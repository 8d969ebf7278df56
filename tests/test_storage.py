"""Where data lies, and files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import pwd
from pathlib import Path

import pytest

from lichtspiel import storage
from lichtspiel.errors import LichtspielError
from lichtspiel.storage import atomic_folder, atomic_write, by_age, draft_path, file_sha256, sweep_drafts


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LICHTSPIEL_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert storage.home() == tmp_path / ".local" / "share" / "lichtspiel"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert storage.home() == tmp_path / ".local" / "share" / "lichtspiel"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert storage.home() == tmp_path / "xdg" / "lichtspiel"
    monkeypatch.setenv("LICHTSPIEL_HOME", "~/mine")
    assert storage.home() == tmp_path / "mine"
    assert list(tmp_path.iterdir()) == []


def test_no_home_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LICHTSPIEL_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(LichtspielError, match="set LICHTSPIEL_HOME"):
        storage.home()


def test_a_draft_takes_the_place_of_the_file_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_draft_is_private_from_the_start(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with atomic_write(tmp_path / "a", mode=0o600) as draft:
            assert draft.stat().st_mode & 0o777 == 0o600
            draft.write_text("secret")
        os.umask(0o077)
        with atomic_write(tmp_path / "b", mode=0o644) as draft:
            draft.write_text("public")
        with atomic_write(tmp_path / "c") as draft:
            draft.write_text("as the umask says")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in "abc"]
    assert modes == [0o600, 0o644, 0o600]


def test_file_and_folder_are_on_the_disk_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with atomic_write(tmp_path / "a") as draft:
        draft.write_text("x")
        file = draft.stat().st_ino
    assert synced == [file, tmp_path.stat().st_ino]


def test_an_unfinished_file_is_none_of_the_files_by_age(tmp_path: Path) -> None:
    (tmp_path / "old.safetensors").write_bytes(b"12")
    with atomic_write(tmp_path / "new.safetensors") as draft:
        draft.write_bytes(b"1")
        assert [path.name for _, _, path in by_age(tmp_path)] == ["old.safetensors"]
    assert [(size, path.name) for _, size, path in by_age(tmp_path)] == [(2, "old.safetensors"), (1, "new.safetensors")]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    (tmp_path / ".clips.partial").mkdir()
    (tmp_path / ".clips.partial" / "left by a run that was killed").touch()

    def fail() -> None:
        with atomic_folder(folder) as draft:
            (draft / "a").touch()
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(folder) as draft:
        (draft / "a").write_text("x")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [folder]


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with (tmp_path / "a").open("rb") as file:
        assert file_sha256(file) == file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_drafts_of_killed_runs_go_and_those_at_work_stay(tmp_path: Path) -> None:
    left, working = draft_path(tmp_path / "a.mp4"), draft_path(tmp_path / "b.mp4")
    mine = tmp_path / ".mine.partial"
    for path in (left, working, mine):
        path.write_bytes(b"half")
    for path in (left, mine):
        os.utime(path, (1e9, 1e9))
    assert sweep_drafts(tmp_path) == 1
    assert not left.exists()
    assert working.exists()
    assert mine.exists()
    assert sweep_drafts(tmp_path / "nowhere") == 0
