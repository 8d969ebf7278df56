"""Where the native part of the C2PA library comes from: its own package, whatever lies in the working directory."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import lichtspiel
from lichtspiel.seal import Sealed

VERIFY = """
import os, sys
from pathlib import Path

opened = []
sys.addaudithook(lambda event, given: opened.append(given[0]) if event == "ctypes.dlopen" else None)

from lichtspiel.seal import verify

if sys.argv[2] == "removed":
    os.rmdir(os.getcwd())
assert verify(sys.argv[1]).credentials.here
print(*{Path(name) for name in opened if name and "c2pa" in name})
"""


def package() -> Path:
    spec = find_spec("c2pa")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def loaded(video: Path, folder: Path, state: str = "there") -> list[str]:
    """The native libraries of C2PA that a process opens which verifies a video in that working directory."""
    done = subprocess.run(
        [sys.executable, "-c", VERIFY, str(video), state], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("place", ["", "artifacts", "libs", "libs/unknown-linux-gnu"])
def test_a_library_in_the_working_directory_is_not_loaded(sealed: Sealed, tmp_path: Path, place: str) -> None:
    [real] = [path for path in (package() / "libs").iterdir() if path.suffix in {".so", ".dylib", ".dll"}]
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / real.name).symlink_to(real)
    assert loaded(sealed.path, tmp_path) == [str(real)]


def test_the_working_directory_may_be_gone(sealed: Sealed, tmp_path: Path) -> None:
    folder = tmp_path / "removed"
    folder.mkdir()
    assert loaded(sealed.path, folder, "removed")


def test_nothing_else_imports_it() -> None:
    root = Path(lichtspiel.__file__).parent
    importing = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(name.name.split(".")[0] == "c2pa" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "c2pa")
    }
    assert importing == {"seal/library.py"}
