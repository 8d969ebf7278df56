"""Files of jobs, in a folder and in a bucket of a local S3 server: the same tests for both."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from lichtspiel.errors import InvalidInput
from lichtspiel.serve.errors import BadName, NotFound, StoreError
from lichtspiel.serve.queue import storage as module
from lichtspiel.serve.queue.storage import CHUNK, Files


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, and the settings by which the tools of S3 find its server."""
    said = {"AWS_ENDPOINT_URL": s3, "AWS_DEFAULT_REGION": "us-east-1"}
    said |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="videos")
    for item in client.list_objects_v2(Bucket="videos").get("Contents", []):
        client.delete_object(Bucket="videos", Key=item["Key"])
    client.close()
    return "s3://videos/some/prefix"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture(params=["folder", "s3"])
def files(request: pytest.FixtureRequest) -> Files:
    return Files(request.getfixturevalue("folder" if request.param == "folder" else "bucket"))


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(b"0123456789")
    return path


def test_there_and_back(files: Files, local: Path, tmp_path: Path) -> None:
    name = "video_1f/frames/a-b.mp4"
    assert not files.exists(name)
    files.put(local, name)
    assert files.exists(name)
    assert files.size(name) == 10
    with files.open(name) as file:
        assert file.seek(4) == 4
        assert file.read(3) == b"456"
        file.seek(0)
        assert file.read() == b"0123456789"
    back = tmp_path / "back"
    back.write_bytes(b"old")
    files.fetch(name, back)
    assert back.read_bytes() == b"0123456789"
    assert back.stat().st_mode & 0o777 == 0o600
    assert local.read_bytes() == b"0123456789"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["back", "local"]


def test_an_empty_file(files: Files, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    files.put(tmp_path / "empty", "a/empty")
    assert (files.size("a/empty"), list(files.read("a/empty", 0, 10))) == (0, [])


def test_what_has_the_name_is_replaced(files: Files, local: Path) -> None:
    files.put(local, "a/preview.png")
    assert files.size("a/preview.png") == 10
    local.write_bytes(b"new")
    files.put(local, "a/preview.png")
    assert (files.size("a/preview.png"), b"".join(files.read("a/preview.png", 0, 99))) == (3, b"new")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 10, b"0123456789"), (0, 1, b"0"), (3, 7, b"3456"), (8, 99, b"89"), (10, 20, b""), (50, 60, b""), (4, 4, b"")],
)
def test_a_range(files: Files, local: Path, start: int, end: int, expected: bytes) -> None:
    files.put(local, "a/video.mp4")
    assert b"".join(files.read("a/video.mp4", start, end)) == expected


def test_a_long_range_comes_in_pieces(files: Files, local: Path) -> None:
    content = bytes(range(256)) * (3 * CHUNK // 256) + b"the end"
    local.write_bytes(content)
    files.put(local, "a/video.mp4")
    pieces = list(files.read("a/video.mp4", 5, len(content)))
    assert [len(piece) for piece in pieces] == [CHUNK, CHUNK, CHUNK, 2]
    assert b"".join(pieces) == content[5:]


def test_a_reader_that_stops_early_closes_the_file(files: Files, local: Path) -> None:
    local.write_bytes(bytes(2 * CHUNK))
    files.put(local, "a/video.mp4")
    pieces = files.read("a/video.mp4", 0, 2 * CHUNK)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]  # a file that is left open is a warning, and so an error


def test_what_is_not_there(files: Files, local: Path, tmp_path: Path) -> None:
    files.put(local, "a/b/c")
    for name in ("a/none", "none", "a/b"):
        for ask in (files.open, files.size, lambda name: files.read(name, 0, 1)):
            with pytest.raises(NotFound, match="no file") as missing:
                ask(name)
        with pytest.raises(NotFound):
            files.fetch(name, tmp_path / "back")
        assert not files.exists(name)
    assert (missing.value.code, missing.value.status) == ("not_found", 404)
    assert not (tmp_path / "back").exists()


def test_remove(files: Files, local: Path) -> None:
    for name in ("a/1", "a/2", "b/c/1", "top"):
        files.put(local, name)
    files.remove(["a/1", "b/c/1", "top", "never/was", "a/1"])
    assert [files.exists(name) for name in ("a/1", "a/2", "b/c/1", "top")] == [False, True, False, False]


WRONG = ["", "..", ".", "/etc/passwd", "a/../b", "a/..", "a/.b", "a//b", "a/", "a/.", "A/b", "a b", "a\\b", "a/b\n"]


@pytest.mark.parametrize("name", [*WRONG, "\0", "a/\0", "ä", "a.b/c", "~/a", "s3://other/a", "a/" * 300 + "a"])
def test_names_that_try_to_escape(files: Files, local: Path, name: str) -> None:
    for ask in (
        lambda: files.put(local, name),
        lambda: files.open(name),
        lambda: files.read(name, 0, 1),
        lambda: files.fetch(name, local),
        lambda: files.size(name),
        lambda: files.exists(name),
        lambda: files.remove(["a/b", name]),
    ):
        with pytest.raises(BadName) as bad:
            ask()
    assert (bad.value.code, bad.value.status) == ("invalid_request", 400)
    assert local.read_bytes() == b"0123456789"


def test_local_files_are_private(folder: Path, local: Path) -> None:
    local.chmod(0o644)
    Files(folder).put(local, "a/b/c")
    modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert modes == {".": 0o700, "a": 0o700, "a/b": 0o700, "a/b/c": 0o600}


def test_empty_folders_go(folder: Path, local: Path) -> None:
    files = Files(f"file://{folder}")
    files.put(local, "a/b/c")
    files.put(local, "a/d")
    files.remove(["a/b/c"])
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["a", "a/d"]
    files.remove(["a/d"])
    assert list(folder.iterdir()) == []


def test_a_copy_that_fails_leaves_the_old_file(folder: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(folder)
    files.put(local, "a/video.mp4")

    def full(source: object, target: object, length: int) -> None:
        target.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(StoreError, match="No space left") as error:
        files.put(local, "a/video.mp4")
    assert (error.value.code, error.value.status) == ("failed", 503)
    assert [path.name for path in (folder / "a").iterdir()] == ["video.mp4"]
    assert (folder / "a" / "video.mp4").read_bytes() == b"0123456789"


def test_readers_see_one_file_or_the_other(folder: Path, tmp_path: Path) -> None:
    files, wrong = Files(folder), []
    contents = [bytes([value]) * 300_000 for value in range(2)]
    for value, content in enumerate(contents):
        (tmp_path / str(value)).write_bytes(content)
    files.put(tmp_path / "0", "a/preview.png")
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if b"".join(files.read("a/preview.png", 0, 1 << 20)) not in contents:
                wrong.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(20):
        files.put(tmp_path / str(turn % 2), "a/preview.png")
    done.set()
    reader.join()
    assert wrong == []


def test_putting_and_removing_at_once(folder: Path, local: Path) -> None:
    files, failed = Files(folder), []

    def work(name: str) -> None:
        try:
            for _ in range(40):
                files.put(local, name)
                files.remove([name])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"a/b/{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_folder_that_goes_while_it_is_made(folder: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, mkdir, gone = Files(folder), Path.mkdir, []

    def late(path: Path, *given: Any, **named: Any) -> None:
        if path.name == "b" and not gone:
            gone.append(path)
            raise FileExistsError(path)  # as `mkdir` does when what it found is no folder, or gone again
        mkdir(path, *given, **named)

    monkeypatch.setattr(Path, "mkdir", late)
    files.put(local, "a/b/c")
    assert files.exists("a/b/c")
    assert gone


def test_a_folder_that_cannot_be_made(tmp_path: Path, local: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read or written"):
        Files(local / "files")
    files = Files(tmp_path / "files")
    (tmp_path / "files").rmdir()
    with pytest.raises(StoreError, match="it is gone"):  # not a client's mistake
        files.put(local, "a")


def test_a_bucket_that_is_not_there(bucket: str, local: Path) -> None:
    with pytest.raises((NotFound, StoreError), match="a/b"):
        Files("s3://none-such/prefix").put(local, "a/b")


def test_a_server_that_is_not_there(bucket: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="a/b: cannot be read or written"):
        Files(bucket).size("a/b")


def test_s3_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    with pytest.raises(InvalidInput, match=r"lichtspiel\[s3\]"):
        Files("s3://videos/prefix")


@pytest.mark.parametrize("url", ["s3://", "s3:///", "http://host/a", "memory://a", "gs://bucket/a"])
def test_places_that_are_none(url: str) -> None:
    with pytest.raises(InvalidInput, match="s3://bucket/prefix"):
        Files(url)
