"""Write docs/cli.md from the command line itself; `--check` only says whether it is up to date.

python scripts/make_cli_page.py [--check]
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import typer

from lichtspiel.cli import app
from lichtspiel.cli.help import headings

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# The command line

`scripts/make_cli_page.py` writes this page from the program's own help; a test checks that it is up to date.

Results go to stdout, progress and messages to stderr. With `--json`, stdout holds JSON and nothing else. A prompt of
several words stands in quotes.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | something went wrong while working, or the work was stopped |
| 2 | the request, a file or a flag cannot be used; the message names what to type instead |
| 3 | refused by the policy |
| 4 | `verify` found nothing |
| 5 | `verify` found that the file was changed after it was signed |
"""


def _row(names: str, meaning: str) -> str:
    names, meaning = (text.replace("|", "\\|") for text in (names, meaning))
    return f"| `{names}` | {meaning} |"


def section(path: str, command: object) -> list[str]:
    """A command: what it does, examples and a table of its options; then the commands in it."""
    inner = [line for key, each in getattr(command, "commands", {}).items() for line in section(f"{path} {key}", each)]
    tables = headings(command)
    if inner and not tables:  # a group that only holds others
        return inner
    about = inspect.cleandoc(command.help or "")
    lines = [f"\n## `{path}`\n", about]
    if path != "lichtspiel":
        lines += ["\n```", command.epilog.strip(), "```"]
    for title, rows in tables.items():
        lines += [f"\n| {title.lower()} | |", "|---|---|"]
        lines += [_row(names, meaning) for names, meaning in rows]
    return lines + inner


def page() -> str:
    """The whole page."""
    group = typer.main.get_command(app)
    return "\n".join([HEAD, *section("lichtspiel", group)]).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == page() else f"{PAGE} is not up to date: run {sys.argv[0]}")
    PAGE.write_text(page(), encoding="utf-8")
