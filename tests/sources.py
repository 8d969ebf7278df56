"""The files of this repository, and their syntax trees: what the house rules are read from."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


@cache
def files() -> tuple[str, ...]:
    """Every file that is, or is about to be, in the repository."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # a copy without git: everything outside hidden folders
        found = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
        found = [name for name in found if not name.startswith(".") and "__pycache__" not in name]
    return tuple(sorted(name for name in found if name and (ROOT / name).is_file()))


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


SOURCES = tuple(name for name in files() if name.endswith(".py"))
PACKAGE = tuple(name for name in SOURCES if name.startswith("lichtspiel/"))
TEXTS = tuple(name for name in files() if name.endswith(".md"))


def imports(module: ast.AST) -> Iterator[str]:
    """The dotted names that a module imports, at its head, inside functions and for types alike."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
