"""Every command of the README and the docs, in the order in which it stands there.

Blocks run as they are typed, by a shell, in a fresh copy of what is in the repository. A block that cannot run in a
test says so and why in a comment above it, `<!-- not run: it needs published weights -->`; its commands are parsed, so
that no option in it is made up. `docs/cli.md` is written from the program and parsed by another test.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from lichtspiel.cli import app, errors
from lichtspiel.cli.examples import EXAMPLES
from lichtspiel.spec import MODELS
from tests.inference.tiny import brief
from tests.lora.files import keys, linear_layers, pairs, save
from tests.sources import files

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
    text: str


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            lines = match["text"].replace("\\\n", " ").splitlines()
            first = match["text"].split(maxsplit=1)[0]
            if not match["language"] and first in PROGRAMS:
                commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.strip()]
                found.append(
                    Block(
                        page.name, match["reason"], commands, match["text"].replace("$ ", "", match["text"][0] == "$")
                    )
                )
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
    command: Any = app.made
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", ()):
        command = command.commands[rest.pop(0)]
    command.make_context("lichtspiel", rest)  # refuses unknown options and missing arguments


SHIM = """#!/usr/bin/env bash
# Hands its words to the test, which runs them in its own process: each process of its own would load PyTorch anew.
printf '%s\\0' "$PWD" "$@" > "$BRIDGE/asked.draft" && mv "$BRIDGE/asked.draft" "$BRIDGE/asked"
read -r code < "$BRIDGE/code"; exit "$code"
"""


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """What `git clone` and `make demo` leave: the files, .venv with the command inside, and the video."""
    for name in files():
        target = tmp_path / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    venv.create(tmp_path / "clone" / ".venv", symlinks=True)
    command = tmp_path / "clone" / ".venv" / "bin" / "lichtspiel"
    command.write_text(SHIM)
    command.chmod(0o755)
    yield tmp_path / "clone"
    shutil.rmtree(tmp_path / "clone")


@pytest.mark.skipif(sys.platform == "win32", reason="blocks are typed into a POSIX shell")
def test_every_command_that_can_run_does(
    clone: Path, random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brief(monkeypatch, random_nano)
    bridge = tmp_path / "bridge"
    bridge.mkdir()
    os.mkfifo(bridge / "code")
    text = "\n".join(block.text for block in blocks() if block.reason is None)
    shell = subprocess.Popen(
        ["bash", "-e"], cwd=clone, env={**os.environ, "BRIDGE": str(bridge)}, text=True, stdin=subprocess.PIPE
    )  # fmt: skip
    assert shell.stdin is not None
    shell.stdin.write(text)
    shell.stdin.close()
    ran, failed = [], ""
    while shell.poll() is None:
        if not (bridge / "asked").exists():
            time.sleep(0.02)
            continue
        folder, *words = (bridge / "asked").read_bytes().decode().split("\0")[:-1]
        (bridge / "asked").unlink()
        if words[:2] == ["verify", "demo.mp4"]:  # what `make demo` makes, from the same prompt
            shutil.copy(clone / "fish.mp4", clone / "demo.mp4")
        monkeypatch.chdir(folder)
        code = errors.run(lambda words=words: app(words, prog_name="lichtspiel", standalone_mode=False))
        shown = capsys.readouterr()
        ran.append(words)
        failed = failed if code == 0 else f"{shlex.join(words)}\n{shown.out}{shown.err}"
        (bridge / "code").write_text(f"{code}\n")
    assert (shell.returncode, failed) == (0, "")
    typed = [words[1:] for block in blocks() if block.reason is None for words in block.commands]
    assert ran == [words for words in typed if words != [".venv/bin/activate"]]
    assert len(ran) >= 12


RUN = re.compile(
    r"lichtspiel (models|show|config|languages|plan|inspect|lora (inspect|convert|resize)|policy|identity "
    r"(init|show)|record (list --limit|find)|serve (key|jobs list|webhook list))\b"
)
"""The examples of the help, and so of docs/cli.md, that need no weights, videos, network, hours or ids. The README's
blocks make videos, seal and verify them."""


def test_the_examples_of_the_help_that_need_no_weights_run(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ComfyUI").mkdir()
    shutil.copytree(random_nano, "ComfyUI/models")
    Image.new("RGB", (64, 64), "gray").save("photo.png")
    spec = MODELS["nano"].dit
    tensors = keys("comfy", pairs(spec, linear_layers(spec), ranks=(16, 16), alphas=(16.0, 16.0)))
    save(Path("style.safetensors"), tensors)
    ran = 0
    for example in (line for lines in EXAMPLES.values() for line in lines if RUN.match(line)):
        words = shlex.split(example)[1:]
        code = errors.run(lambda words=words: app(words, prog_name="lichtspiel", standalone_mode=False))
        shown = capsys.readouterr()
        wanted = 3 if words[:2] == ["policy", "check"] and "neighbor" in example and code else 0
        assert code == wanted, f"{example}\n{shown.out}{shown.err}"
        ran += 1
    assert ran >= 25
