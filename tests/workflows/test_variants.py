"""Several videos of one request: lists of seeds, names with placeholders, and one pipeline for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lichtspiel.cli import app
from lichtspiel.errors import InvalidInput, OutputError, RequestError
from lichtspiel.media.video import video_info
from lichtspiel.request import Request
from lichtspiel.seal import verify
from lichtspiel.weights.checkpoint import Checkpoint
from lichtspiel.workflows.names import filled, seeds_from, seeds_of, with_seed


def lichtspiel(*words: str | Path) -> None:
    app([*map(str, words)], standalone_mode=False)


@pytest.mark.parametrize(("text", "seeds"), [("1-4", [1, 2, 3, 4]), ("7", [7]), ("3, 9-10,5", [3, 9, 10, 5])])
def test_seeds_are_lists_and_ranges(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "4-1", "a", "1,,2", "-3", "1-99999", "2,1-3", f"{2**63}"])
def test_what_is_no_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"seeds: .* is not valid"):
        seeds_of(text)


def test_a_count_goes_on_from_the_seed() -> None:
    assert seeds_from("5", 3) == [5, 6, 7]
    assert len(seeds_from(None, 4)) == 4
    with pytest.raises(RequestError, match="count: 0"):
        seeds_from(None, 0)


def test_names_are_filled_in() -> None:
    request = Request.of(prompt="A cat/dog in Köln, 在海边: 4k?", seed=7)
    assert filled(Path("out/{model}/{prompt}_{seed}.mp4"), request) == Path(
        "out/{model}/a-cat-dog-in-köln-在海边-4k_7.mp4"
    )
    assert filled(Path("{prompt}.mp4"), Request.of(prompt="!?", seed=1)) == Path("video.mp4")
    long = filled(Path("{prompt}.mp4"), Request.of(prompt="在" * 200, seed=1))
    assert len(long.name.encode()) < 100
    assert with_seed(Path("a/cat.mp4"), [1, 2]) == Path("a/cat-{seed}.mp4")
    assert with_seed(Path("a/cat.mp4"), [1]) == Path("a/cat.mp4")
    with pytest.raises(OutputError, match=r"\{sed\} is not filled in; names may hold"):
        filled(Path("{sed}.mp4"), request)


def test_several_seeds_make_several_videos_and_load_once(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads: list[str] = []
    whole = Checkpoint.dit

    def counted(self: Checkpoint, *given: object, **more: object) -> object:
        loads.append("dit")
        return whole(self, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoint, "dit", counted)
    monkeypatch.chdir(tmp_path)
    small = ("--weights", random_nano, "--steps", "1", "--frames", "1", "--no-marks", "speed")
    lichtspiel("generate", "a bee", *small, "--seeds", "3,8", "-o", "{prompt}.mp4", "--sheet", "sheet.png", "--json")
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["path"], one["seed"]) for one in made] == [("a-bee-3.mp4", 3), ("a-bee-8.mp4", 8)]
    assert {path.name for path in tmp_path.iterdir()} == {"a-bee-3.mp4", "a-bee-8.mp4", "sheet-3.png", "sheet-8.png"}
    assert len(loads) == 1
    assert video_info("a-bee-8.mp4").width == 128
    lichtspiel("generate", "a bee", *small, "--count", "2", "--seed", "5")
    assert "seed 6" in capsys.readouterr().out
    assert (tmp_path / "lichtspiel-5.mp4").exists()
    with pytest.raises(OutputError, match=r"a-bee-8\.mp4 exists"):
        lichtspiel("generate", "a bee", *small, "--seeds", "7-8", "-o", "{prompt}.mp4")
    with pytest.raises(OutputError, match="name the same file"):
        lichtspiel("generate", "a bee", *small, "--seeds", "7-8", "-o", "{seed}.png", "--sheet", "{seed}.png")
    with pytest.raises(InvalidInput, match="--count would have no effect"):
        lichtspiel("generate", "a bee", *small, "--seeds", "7-8", "--count", "2")
    with pytest.raises(InvalidInput, match="--seed would have no effect"):
        lichtspiel("generate", "a bee", *small, "--seeds", "7-8", "--seed", "2")
    assert verify("a-bee-3.mp4").credentials.state == "none"
