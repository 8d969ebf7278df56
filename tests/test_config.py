"""The configuration file: weights that are remembered, defaults and presets, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lichtspiel.cli import app
from lichtspiel.cli.errors import message
from lichtspiel.config import config_path, forget_weights, read_config, remember_weights
from lichtspiel.errors import InvalidInput, LichtspielError, RequestError
from lichtspiel.spec import MODELS
from lichtspiel.weights.checkpoint import EMBEDDED, checkpoint
from lichtspiel.workflows.batch import read_jobs


def written(text: str) -> Path:
    config_path().write_text(text, encoding="utf-8")
    return config_path()


def lichtspiel(*words: str | Path) -> None:
    app([*map(str, words)], standalone_mode=False)


def test_weights_are_remembered_and_forgotten(
    random_nano: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written("# mine\n[defaults]\nupscale = 2  # small otherwise\n")
    monkeypatch.chdir(random_nano.parent)
    lichtspiel("use", "nano", random_nano.name)
    assert f"uses  {random_nano.name}/dit.safetensors\n" in capsys.readouterr().out
    assert read_config().weights == {"nano": [random_nano]}
    assert "# mine" in config_path().read_text()
    assert "# small otherwise" in config_path().read_text()
    monkeypatch.chdir("/")
    assert {path.parent for part in checkpoint(MODELS["nano"]).parts.values() for path in part.paths} == {random_nano}
    lichtspiel("use", "nano", "--forget", "--json")
    assert json.loads(capsys.readouterr().out)["weights"] == []
    assert checkpoint(MODELS["nano"]).parts["dit"].paths[0].parent == EMBEDDED
    with pytest.raises(InvalidInput, match="names no weights for nano"):
        forget_weights("nano")


def test_weights_that_do_not_fit_are_not_remembered(random_nano: Path) -> None:
    with pytest.raises(LichtspielError, match=r"t2v-1\.3b|another model"):
        lichtspiel("use", "t2v-1.3b", random_nano)
    assert not config_path().exists()
    with pytest.raises(InvalidInput, match=r"Type: lichtspiel use t2v-1\.3b FOLDER"):
        lichtspiel("use", "t2v-1.3b")


def test_weights_that_moved_are_an_error_with_both_ways_out(tmp_path: Path) -> None:
    remember_weights("t2v-1.3b", [tmp_path / "gone"])
    with pytest.raises(LichtspielError, match=r"gone does not exist, but .*config\.toml names it.*use t2v-1\.3b PATH"):
        checkpoint(MODELS["t2v-1.3b"])


def test_what_is_typed_goes_before_a_preset_and_that_before_the_defaults() -> None:
    written("""
        [defaults]
        steps = 9
        upscale = 2
        seconds = 1.0
        [defaults."t2v-1.3b"]
        steps = 30
        guidance = 4
        [presets.draft]
        steps = 3
        frames = 9
    """)
    config = read_config()
    assert config.complete({}) == {"steps": 9, "upscale": 2, "seconds": 1.0}
    assert config.complete({}, "draft") == {"steps": 3, "frames": 9, "upscale": 2}
    assert config.complete({"model": "t2v-1.3b"}) == {
        "model": "t2v-1.3b", "steps": 30, "guidance": 4, "upscale": 2, "seconds": 1.0,
    }  # fmt: skip
    assert config.complete({"model": "t2v-1.3b", "steps": "7"}, "draft")["steps"] == "7"
    assert config.complete({"frames": "5"})["frames"] == "5"
    with pytest.raises(RequestError, match="nearest valid value: draft") as caught:
        config.complete({}, "drfat")
    assert message(caught.value).startswith("--preset drfat is not valid")


def test_defaults_and_presets_change_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_nano: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written("[defaults]\nsteps = 1\nframes = 5\n[presets.tall]\nguidance = 1\n")
    monkeypatch.chdir(tmp_path)
    lichtspiel("generate", "a bee", "--preset", "tall", "--weights", random_nano, "-o", "a.mp4", "--json")
    made = json.loads(capsys.readouterr().out)
    assert (made["steps"], made["frames"], made["guidance"]) == (1, 5, 1)
    lichtspiel("generate", "a bee", "--weights", random_nano, "-o", "a.png", "--steps", "2", "--json")
    made = json.loads(capsys.readouterr().out)
    assert (made["steps"], made["frames"], made["guidance"]) == (2, 1, 5)
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "a bee"}\n{"prompt": "a bee", "steps": 2}\n')
    lines = read_jobs(tmp_path / "jobs.jsonl", None, lambda fields: read_config().complete(fields, "tall"))
    assert [(line.request.steps, line.request.guidance) for line in lines] == [(1, 1), (2, 1)]


def test_an_option_of_the_file_that_does_not_fit_is_said_to_come_from_it(tmp_path: Path) -> None:
    written('[defaults]\nsize = "832x480"\n')
    with pytest.raises(RequestError) as caught:
        lichtspiel("generate", "a bee", "-o", tmp_path / "a.mp4")
    said = message(caught.value)
    assert f"nano makes 128x128; it is not typed, but set in {config_path()}; try --size 128x128" in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[defaults\n", "cannot be read"),
        ("[default]\nsteps = 3\n", r"\[default\] is no table that is known"),
        ("[defaults]\nstep = 3\n", "step is no option; did you mean steps"),
        ('[defaults]\nprompt = "x"\n', "prompt belongs to one video"),
        ('[presets.a]\nsteps = "many"\n', r"\[presets.a\] steps: 'many' is not valid: it is a whole number"),
        ("[presets.a]\nframes = 5\nseconds = 1\n", "frames and seconds"),
        ('[weights]\n"t2v-1.3" = "x"\n', r"did you mean t2v-1\.3b"),
        ('[weights]\n"t2v-1.3b" = 3\n', "a path, or a list of paths"),
        ("presets = 3\n", r"write it as \[presets\]"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_with_its_path(text: str, told: str) -> None:
    path = written(text)
    with pytest.raises(InvalidInput, match=told) as caught:
        read_config()
    assert str(path) in str(caught.value)


def test_config_shows_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    lichtspiel("config")
    shown = capsys.readouterr().out
    assert shown.startswith(f"{config_path()} (there is no such file yet)")
    example = shown.partition("for example:")[2]
    written(example)  # the example is a file that can be used
    assert read_config().presets == {"draft": {"steps": 12, "size": "480x272"}}
    lichtspiel("config")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "defaults  upscale 2", "defaults  t2v-1.3b: steps 30", "preset    draft: steps 12, size 480x272",
    ]  # fmt: skip
    lichtspiel("config", "--json")
    shown_json: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown_json["defaults"] == {"upscale": 2, "t2v-1.3b": {"steps": 30}}
