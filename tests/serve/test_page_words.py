"""The files of the page, read without a browser: no text is missing or idle, and nothing comes from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "lichtspiel" / "serve" / "page"
LANGUAGES = ("en", "de", "zh")


def files(*endings: str) -> list[Path]:
    return [path for path in sorted(PAGE.iterdir()) if path.suffix in endings]


def table(language: str) -> dict[str, Any]:
    """The words of a language, read from its modules: one name and one JSON value a line."""
    modules = [PAGE / f"{language}.js", *sorted(PAGE.glob(f"*-{language}.js"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    return {name: json.loads(value) for name, value in re.findall(r"^  (\w+): (.+),$", text, re.MULTILINE)}


def test_every_text_is_there_in_all_languages_with_the_same_gaps() -> None:
    english = table("en")
    assert len(english) > 150
    for language in LANGUAGES:
        words = table(language)
        assert list(words) == list(english), language
        for name, text in words.items():
            assert text, (language, name)
            assert isinstance(text, type(english[name])), (language, name)
            if isinstance(text, str):
                assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", english[name])), (language, name)


def test_every_text_that_is_used_exists_and_every_text_is_used() -> None:
    scripts = [path for path in files(".js", ".html") if path.stem.rpartition("-")[2] not in LANGUAGES]
    code = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    named = set(re.findall(r'\bt\("(\w+)"', code)) | set(re.findall(r'data-t(?:-\w+)?="(\w+)"', code))
    assert named <= set(table("en"))
    built = tuple(re.findall(r"`(\w+_)\$\{", code))  # such as `state_${...}`
    assert [name for name in table("en") if f'"{name}"' not in code and not name.startswith(built)] == []


def test_nothing_is_put_in_as_html_and_nothing_comes_from_elsewhere() -> None:
    for path in files(".js", ".html", ".css", ".svg"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert len(text.splitlines()) <= 400, path.name
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*src=)", page)
