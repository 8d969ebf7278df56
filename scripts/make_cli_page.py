"""Write docs/cli.md from the command line itself; `--check` only says whether it is up to date.

python scripts/make_cli_page.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from lichtspiel.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# The command line

Written by `scripts/make_cli_page.py`; a test checks that it is up to date.

Exit codes: 0 done · 2 the request or a file is not usable · 3 refused by policy · 1 anything else ·
`verify` also: 4 nothing found, 5 tampered. Results go to stdout, progress and messages to stderr; `--json` prints one
object and nothing else.
"""


def flag(parameter: object) -> str:
    """One line of a command's table."""
    names = " ".join((*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = parameter.name.upper()
    shown = parameter.default if not callable(parameter.default) else None
    default = "" if shown in (None, False) else f"`{shown}`"
    return f"| `{names}` | {parameter.help or ''} | {default} |"


def section(name: str, command: object) -> list[str]:
    """A command, or all commands of a group."""
    if hasattr(command, "commands"):
        return [line for key, inner in command.commands.items() for line in section(f"{name} {key}", inner)]
    lines = [f"\n## `{name}`\n", (command.help or "").strip(), "\n| option | meaning | default |", "|---|---|---|"]
    return lines + [flag(parameter) for parameter in command.params if parameter.name != "help"]


def page() -> str:
    """The whole page."""
    group = typer.main.get_command(app)
    return "\n".join([HEAD, *section("lichtspiel", group)]).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == page() else f"{PAGE} is not up to date: run {sys.argv[0]}")
    PAGE.write_text(page(), encoding="utf-8")
