"""The cache of text states: what is kept, for how long, and what it does when files are damaged."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from lichtspiel.inference.prompt_cache import fingerprint, get, paths_of, put


def files(home: Path) -> list[Path]:
    return sorted((home / "states").iterdir())


def test_what_was_kept_comes_back_for_this_text_and_encoder_only(home: Path) -> None:
    states = torch.randn(1, 5, 8, dtype=torch.bfloat16)
    assert get("a turtle", "one") is None
    put("a turtle", "one", states[:, :, ::1])
    found = get("a turtle", "one")
    assert found is not None
    assert found.dtype == states.dtype
    assert torch.equal(found, states)
    assert get("a turtle", "two") is None
    assert get("a turtle ", "one") is None
    (path,) = files(home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert b"turtle" not in path.read_bytes()
    assert "turtle" not in path.name


def test_odd_texts_have_names_too() -> None:
    for text in ("", "海龟\0🐢", "\ud800"):
        put(text, "one", torch.full((1, 1, 2), float(len(text))))
    assert [get(text, "one").flatten()[0].item() for text in ("", "海龟\0🐢", "\ud800")] == [0, 4, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"x" * 100, b"\xff" * 8])
def test_a_damaged_file_is_a_text_not_seen_and_is_replaced(home: Path, content: bytes) -> None:
    states = torch.ones(1, 2, 3)
    put("a", "b", states)
    (path,) = files(home)
    path.write_bytes(content)
    assert get("a", "b") is None
    put("a", "b", states)
    assert get("a", "b") is not None


def test_numbers_that_are_none_are_not_believed() -> None:
    put("a", "b", torch.full((1, 2, 3), float("nan")))
    assert get("a", "b") is None


def test_what_was_unused_for_longest_goes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("0", "e", torch.zeros(1, 1, 1000))
    size = files(home)[0].stat().st_size
    monkeypatch.setattr("lichtspiel.inference.prompt_cache.LIMIT_BYTES", 3 * size)
    for name in "12":
        put(name, "e", torch.zeros(1, 1, 1000))
    for path in files(home):
        os.utime(path, ns=(1, 1))
    assert get("0", "e") is not None
    put("3", "e", torch.zeros(1, 1, 1000))
    assert len(files(home)) == 3
    assert get("0", "e") is not None
    assert get("3", "e") is not None


def test_a_disk_that_cannot_be_written_stops_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    put("a", "b", torch.ones(1, 1, 1))
    monkeypatch.setattr("os.replace", full)
    put("c", "b", torch.ones(1, 1, 1))
    assert get("c", "b") is None
    assert len(files(home)) == 1


def test_another_file_is_another_encoder(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    first = fingerprint([one, two], "float32")
    assert fingerprint([two, one], "float32") == first
    assert fingerprint([one, two], "bfloat16") != first
    two.write_bytes(b"22")
    assert fingerprint([one, two], "float32") != first


def test_names_cannot_be_told_from_the_text_without_the_secret(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("a turtle", "one", torch.ones(1, 2, 3))
    (here,) = files(home)
    assert stat.S_IMODE((home / "states.key").stat().st_mode) == 0o600
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "other"))
    put("a turtle", "one", torch.ones(1, 2, 3))
    (there,) = files(tmp_path / "other")
    assert here.name != there.name
    (tmp_path / "other" / "states.key").write_bytes(b"cut off")
    put("a turtle", "one", torch.ones(1, 2, 3))  # a damaged secret is made anew
    assert get("a turtle", "one") is not None


def test_all_states_of_a_text_can_be_found_to_erase_them(home: Path) -> None:
    assert paths_of("a turtle") == []
    assert not (home / "states.key").exists()
    for text, encoder in (("a turtle", "one"), ("a turtle", "two"), ("a bus", "one")):
        put(text, encoder, torch.ones(1, 2, 3))
    (home / "states" / f"{'0' * 64}.safetensors").write_bytes(b"of an edition that named files otherwise")
    for path in paths_of("a turtle"):
        path.unlink()
    assert get("a turtle", "one") is get("a turtle", "two") is None
    assert len(files(home)) == 1
    assert get("a bus", "one") is not None
