"""What the verbs share: some options, the progress bar, and how results are printed."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.errors import InvalidInput, printable
from lichtspiel.options import COMPUTING

if TYPE_CHECKING:
    from lichtspiel.inference.plan import Plan

OUTPUT, MARKS, POLICY = "Output", "Marks", "Policy and privacy"
"""Headings of options, beside those of a request in `options`."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else.", rich_help_panel=OUTPUT)]
Sheet = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write a contact sheet of frames, as PNG.", rich_help_panel=OUTPUT),
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PATH",
        help="Folder or file of the weights, in any layout; see `lichtspiel pull`. [may be repeated]",
        rich_help_panel=COMPUTING,
    ),
]
Checkpoint = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a checkpoint; see `lichtspiel models`.")]


SMALL = 256
"""Pixels of the longer side below which a result is a stamp in a player."""


def out_option(help: str) -> Any:
    """The option that says where the result goes."""
    return typer.Option("--out", "-o", metavar="PATH", help=help, rich_help_panel=OUTPUT)


Force = Annotated[bool, typer.Option("--force", help="Replace files that exist; inputs never.", rich_help_panel=OUTPUT)]


def free_output(out: Path | None, default: str, *other_paths: Path | None, force: bool) -> Path:
    """Where the result goes: a free name where none was typed, or where a folder was, in that folder. Raises
    OutputError for a file that exists already, other outputs such as the contact sheet included, unless `force` is set.
    Where `default` is empty, a name must be typed."""
    from lichtspiel.workflows.outputs import check_free, free_name

    if default and (out is None or out.is_dir()):
        check_free(other_paths, force=force)
        return free_name(Path(out or "", default))
    check_free([out, *other_paths], force=force)
    assert out is not None
    return out.resolve() if os.path.islink(out) else out  # the target is replaced, not the link to it


def check_new_file(flag: str, path: Path, inputs: list[tuple[str, Path]], *, force: bool) -> None:
    """Check before the work that a file beside the result can be written. Raises OutputError for an input, for a folder
    that is not there, and, unless `force` is set, for a file that exists."""
    from lichtspiel.workflows.outputs import check_distinct, check_folder, check_free

    check_distinct({flag: path}, inputs)
    check_folder(path)
    check_free([path], force=force)


def without_effect(flags: dict[str, object], reason: str) -> None:
    """Refuse flags that were typed (are not None) although, for this reason, they would change nothing."""
    typed = [name for name, value in flags.items() if value is not None]
    if typed:
        raise InvalidInput(f"{', '.join(typed)} would have no effect: {reason}")


def secret(path: Path | None) -> str:
    """The text of a file that holds a key, without the line end."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: the key in this file cannot be read: {error}") from None


def say(note: str) -> None:
    """Tell a person something before the long part of the work begins."""
    print(f"note: {printable(note)}", file=sys.stderr)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a package that is missing, while this lasts, into InvalidInput that names the extra which brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InvalidInput(f"{error.name} is not installed; this needs: pip install 'lichtspiel[{extra}]'") from None


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar with the remaining time on stderr; nothing when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=1.0)
        yield lambda stage, done: bar.update(task, description=stage, completed=done)


@contextmanager
def observer() -> Iterator[Any]:
    """An `Observer` that draws the bar, prints notes, and counts from the start of this process."""
    from lichtspiel.inference.clock import Clock
    from lichtspiel.workflows.generate import Observer

    with progress_bar() as progress:
        yield Observer(progress=progress, note=say, clock=Clock.of_process())


@contextmanager
def led(weights: list[Path] | None) -> Iterator[bool]:
    """Whether this process leads those that `torchrun` started, or is alone. The others compute what it hands out, and
    are done when the block begins."""
    from lichtspiel.inference.follow import follow
    from lichtspiel.inference.parallel import joined

    with joined() as team:
        if team is not None and not team.leads:
            follow(team, weights)
        yield team is None or team.leads


def print_plan(estimated: Plan, steps: int, *, guided: bool, as_json: bool) -> None:
    """Print a plan for so many steps, with guidance or without. Exits with 1 if the job cannot run."""
    from dataclasses import replace

    estimated = replace(estimated, steps=steps, guided=guided)
    print(json.dumps(estimated.to_json(), ensure_ascii=False) if as_json else estimated.table())
    if estimated.refusal:
        raise typer.Exit(1)


def print_result(result: dict[str, Any], sheet: Path | None, as_json: bool) -> None:
    """Print what was made, where it is and how."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    timings, upscale = result["timings"], result["upscale"]
    size = "x".join(str(side * upscale) for side in result["size"])
    size += "" if upscale == 1 else f", made as {'x'.join(map(str, result['size']))}"
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in timings.items() if stage != "total")
    settings = (
        f"{result['steps']} steps of {result['solver']}, guidance {result['guidance']:g}, shift {result['shift']:g}"
    )
    picture = result["path"].lower().endswith(".png")
    print(f"{'picture' if picture else 'video':<9}{printable(result['path'])}")
    if sheet is not None:
        print(f"sheet    {printable(str(sheet))}")
    print(f"size     {size}" + ("" if picture else f", {result['frames']} frames at {result['fps']} per second"))
    print(f"made by  {result['model']}, seed {result['seed']}, {settings}, {result['dtype']} on {result['device']}")
    print(f"took     {timings['total']:.1f} s ({stages})")
    print(sealed_by(result["seal"]["signer"], result["path"], result["seal"]["timestamp"]))
    if max(result["size"]) < SMALL and upscale == 1:
        larger = "x".join(str(4 * side) for side in result["size"])
        print(f"note     {size} is small in a player; --upscale 4 makes it {larger}")
    if result["unknown_words"]:
        print(printable(f"note     {result['model']} does not know: {', '.join(result['unknown_words'])}"))
    if result["peak_bytes"]:
        print(f"memory   {result['peak_bytes'] / 1e9:.2f} GB at most")


def sealed_by(signer: str | None, path: str, timestamp: str | None) -> str:
    """The lines that say who signed, and what became of a time stamp that was requested."""
    if signer is None:
        return "sealed   no: the marks were left out"
    typed = shlex.quote(f"./{path}" if path.startswith("-") else path)  # else its name reads as an option
    line = f"sealed   {signer}; check with: lichtspiel verify {printable(typed)}"
    return line if timestamp is None else f"{line}\ntime     {printable(timestamp)}"
