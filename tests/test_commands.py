"""Every command of the README and the docs, in the order in which it stands there.

Blocks run as they are typed, in one empty folder. A block that cannot run in a test says so and why in a comment above
it, `<!-- not run: it needs published weights -->`; its commands are parsed, so that no option in it is made up.
`docs/cli.md` is written from the program and parsed by another test.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from lichtspiel.cli import app, errors

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "cli.md")]
PROGRAMS = ("lichtspiel", "make", "pip", "python", "python3", "py", "source", "curl", "docker", "ray", "$")
REASONS = {
    "it needs published weights", "it installs", "it takes hours", "it needs files of your own",
    "it needs a running server", "it stands for any server",
}  # fmt: skip
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]*) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    page: str
    reason: str | None
    commands: list[list[str]]


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            lines = match["text"].replace("\\\n", " ").splitlines()
            first = match["text"].split(maxsplit=1)[0]
            if not match["language"] and first in PROGRAMS:
                commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.strip()]
                found.append(Block(page.name, match["reason"], commands))
    return found


def test_a_block_that_is_not_run_says_why() -> None:
    assert len(blocks()) > 20
    for block in blocks():
        others = [words for words in block.commands if words[0] not in {"lichtspiel", "source"}]
        assert block.reason in REASONS or not (block.reason or others), f"{block.page}: {block.commands[0]}"


@pytest.mark.parametrize(
    "words",
    [words for block in blocks() for words in block.commands if words[0] == "lichtspiel"],
    ids=lambda words: " ".join(words)[:60],
)
def test_every_command_can_be_parsed(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", ()):
        command = command.commands[rest.pop(0)]
    command.make_context("lichtspiel", rest)  # refuses unknown options and missing arguments


def test_every_command_that_can_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for block in blocks():
        for words in block.commands if block.reason is None else ():
            if words[0] == "source":  # activates the environment that this test runs in already
                continue
            if words[1:2] == ["verify"] and not Path("demo.mp4").exists() and Path("fish.mp4").exists():
                shutil.copy("fish.mp4", "demo.mp4")  # what `make demo` makes, from the same prompt
            code = errors.run(lambda words=words: app(words[1:], prog_name="lichtspiel", standalone_mode=False))
            shown = capsys.readouterr()
            assert code == 0, f"{block.page}: {' '.join(words)}\n{shown.out}{shown.err}"
            ran += 1
    assert ran >= 12
