"""Nothing that is there already is lost: names of results against inputs, other results and existing files."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lichtspiel.cli import app, errors
from lichtspiel.cli.common import free_output
from lichtspiel.errors import OutputError
from lichtspiel.request import Request
from lichtspiel.spec import MODELS
from lichtspiel.workflows.outputs import check_distinct, check_free, check_outputs, free_name
from tests.lora.files import keys, linear_layers, pairs, save


def run(words: str) -> int:
    return errors.run(lambda: app(shlex.split(words), prog_name="lichtspiel", standalone_mode=False))


def test_a_result_is_no_input_and_no_other_result(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "a.png")
    for name in ("a.png", "link.png", "hard.png", "sub/../a.png"):
        with pytest.raises(OutputError, match="--out and --image name the same file; give --out another name"):
            check_distinct({"--out": tmp_path / name}, [("--image", tmp_path / "a.png")])
    with pytest.raises(OutputError, match="--out would replace a file of --video"):
        check_distinct({"--out": tmp_path / "a.png"}, [("--video", tmp_path)])  # a folder of pictures
    with pytest.raises(OutputError, match="--sheet and --out name the same file"):
        check_distinct({"--out": tmp_path / "b.png", "--sheet": tmp_path / "." / "b.png"}, [])
    check_distinct({"--out": tmp_path / "b.png", "--sheet": tmp_path / "c.png"}, [("--video", tmp_path)])
    check_distinct({"--out": tmp_path / "b.png", "--sheet": None}, [])


def test_an_existing_file_is_kept_or_replaced_on_purpose(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    assert free_name(path) == path
    path.write_bytes(b"a")
    assert free_name(path) == tmp_path / "a-2.mp4"
    (tmp_path / "a-2.mp4").symlink_to(tmp_path / "nowhere")
    assert free_name(path) == tmp_path / "a-3.mp4"
    check_free([path], force=True)
    check_free([tmp_path / "b.mp4", None], force=False)
    with pytest.raises(OutputError, match=r"a\.mp4 exists; choose another name, or add --force to replace it"):
        check_free([None, path], force=False)


@pytest.mark.parametrize("force", ["", " --force"])
@pytest.mark.parametrize(
    "words",
    [
        "generate x --image f.png --frames 1 -o f.png",
        "generate x --image f.png --sheet f.png -o y.mp4",
        "generate x --image f.png --last-image l.png --sheet l.png -o y.mp4",
        "generate x --lora k.safetensors --sheet k.safetensors -o y.mp4",
        "generate x -o g.png --sheet g.png",
        "generate x --model vace-1.3b --reference f.png --preview f.png",
        "generate x --model vace-1.3b --video clip --preview clip/0.png",
        "seal k.mp4 -o k.mp4 --made-with x",
        "replay k.mp4 -o k.mp4",
        "lora convert k.safetensors --to diffusers -o k.safetensors",
    ],
)
def test_no_verb_replaces_an_input(
    words: str, force: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "home"))
    spec = MODELS["nano"].dit
    (tmp_path / "clip").mkdir()
    for name in ("f.png", "l.png", "clip/0.png"):
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / name)
    (tmp_path / "k.mp4").write_bytes(b"a video")
    save(tmp_path / "k.safetensors", keys("kohya", pairs(spec, linear_layers(spec))))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert run(words + force) == 2
    said = capsys.readouterr().err
    assert "name the same file" in said or "would replace" in said or "exists; choose" in said
    assert "exists; choose" not in said or not force
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file() and "home" not in path.parts}
    assert after == before


def test_a_default_name_is_a_free_one(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "home"))
    plain = f"generate turtle --weights {random_nano} --steps 1 --frames 1"
    assert [run(plain), run(plain)] == [0, 0]
    assert "lichtspiel-2.mp4" in capsys.readouterr().out
    first = (tmp_path / "lichtspiel.mp4").read_bytes()
    for taken in ("-o lichtspiel.mp4", "-o new.mp4 --sheet sheet.png"):
        (tmp_path / "sheet.png").touch()
        assert run(f"{plain} {taken}") == 2
        assert "exists; choose another name, or add --force to replace it" in capsys.readouterr().err
    assert (tmp_path / "lichtspiel.mp4").read_bytes() == first
    assert run(f"{plain} -o lichtspiel.mp4 --force") == 0
    assert (tmp_path / "lichtspiel.mp4").read_bytes() != first
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["lichtspiel-2.mp4", "lichtspiel.mp4", "sheet.png"]


def test_a_folder_gets_the_file_under_a_free_name(random_nano: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    plain = f"generate turtle --weights {random_nano} --steps 1 --frames 1 -o {folder}"
    assert [run(plain), run(plain), run(f"{plain} --seeds 3,4")] == [0, 0, 0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "lichtspiel-2.mp4", "lichtspiel-3.mp4", "lichtspiel-4.mp4", "lichtspiel.mp4",
    ]  # fmt: skip


def test_a_name_too_long_for_a_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_free([Path("視" * 90 + ".mp4")], force=False)
    with pytest.raises(OutputError, match="has 274 bytes; a name has at most 255"):
        check_outputs(Request.of(prompt="x"), Path("視" * 90 + ".mp4"), None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.webm", r"C2PA has no place for credentials in WebM; nearest valid name: a\.mp4"),
        ("a.mkv", r"C2PA has no place for credentials in Matroska; nearest valid name: a\.mp4"),
        ("a.jpg", r"pictures are written as PNG; nearest valid name: a\.png"),
        ("a", r"videos are written as MP4; nearest valid name: a\.mp4"),
    ],
)
def test_a_format_that_is_not_written_is_refused_with_the_reason(name: str, told: str) -> None:
    with pytest.raises(OutputError, match=told):
        check_outputs(Request.of(prompt="x"), Path(name), None)


def test_a_link_is_followed_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(tmp_path / "target.mp4")
    with pytest.raises(OutputError, match="exists"):
        free_output(tmp_path / "link.mp4", "", force=False)
    assert free_output(tmp_path / "link.mp4", "", force=True) == tmp_path / "target.mp4"
