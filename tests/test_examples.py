"""The programs in `examples` run, and docs/python.md shows them as they are."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from lichtspiel import generate
from tests.inference.tiny import brief

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "serve_client"])
def test_an_example_runs(name: str, tmp_path: Path, random_nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    brief(monkeypatch, random_nano)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    made = {"generate": {"fish.mp4", "dragon.mp4", "dragon.png"}, "road": {"preview.png"}, "progress": set[str]()}[name]
    assert {path.name for path in tmp_path.iterdir()} == made


def test_the_page_on_python_shows_the_examples_and_nothing_else() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert shown == [
        (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("generate", "road", "progress", "serve_client")
    ]
    assert {*EXAMPLES} == {"generate", "road", "progress", "serve_client"}


def test_a_prompt_and_strings_are_enough(tmp_path: Path, random_nano: Path) -> None:
    result = generate("a whale", str(tmp_path / "whale.png"), weights=str(random_nano), sheet=str(tmp_path / "s.png"))
    assert (result.request.frames, result.request.prompt) == (1, "a whale")
    assert {path.name for path in tmp_path.iterdir()} == {"whale.png", "s.png"}
