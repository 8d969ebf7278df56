"""How commands describe themselves: options under headings, examples at the end, lines that are never cut.

Plain text, without Rich's help, which would cost 0.2 s. `docs/cli.md` is made from the same records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group", "headings", "record"]


def record(parameter: Any) -> tuple[str, str]:
    """An option or argument as a line of a table: how it is typed, and what it means with its default."""
    if parameter.param_type_name == "argument":
        return _word(parameter), parameter.help or ""
    names = sorted(parameter.opts, key=len)
    shown = ", ".join(names) + "".join(f" / {other}" for other in parameter.secondary_opts)
    if not parameter.is_flag:
        shown += f" {parameter.metavar or 'VALUE'}"
    about = parameter.help or ""
    if parameter.required:
        about += " [required]"
    elif isinstance(parameter.default, str | int | float | Path) and parameter.default not in (False, ""):
        default = f"{parameter.default:g}" if isinstance(parameter.default, float) else parameter.default
        about += f" [default: {default}]"
    return shown, about


def headings(command: Any, context: Any = None) -> dict[str, list[tuple[str, str]]]:
    """The arguments and options of a command under their headings, in the order in which these first come."""
    records: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.params if context is None else command.get_params(context):
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        records.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record(parameter))
    return records


def _word(argument: Any) -> str:
    return f"{argument.metavar or argument.name.upper()}{'...' if argument.nargs != 1 else ''}"


def _usage(command: Any) -> list[str]:
    words = [_word(one) for one in command.params if one.param_type_name == "argument"]
    return ["[OPTIONS]", *words]


def _first_line(command: Any) -> str:
    return (command.help or "").strip().partition("\n")[0]


class Command(TyperCommand):
    """A verb."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the line "Usage"."""
        return _usage(self)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """All options under their headings."""
        for title, rows in headings(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Examples, one a line, as they are typed."""
        _write_examples(self, formatter)


class Group(TyperGroup):
    """Verbs under one name."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the line "Usage"."""
        return [*_usage(self), "COMMAND ..."]

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the verbs, in the order in which they were added."""
        return list(self.commands)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """All options and all verbs, under their headings."""
        for title, rows in headings(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl(rows)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append((name, _first_line(command)))
        width = max(len(name) for name in self.commands)
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), about) for name, about in rows])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Examples, one a line, as they are typed."""
        _write_examples(self, formatter)


def _write_examples(command: Any, formatter: Any) -> None:
    examples: Sequence[str] = (command.epilog or "").splitlines()
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
