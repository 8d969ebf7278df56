"""What the verbs share: option types, the progress bar, and how results are printed."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The MP4 file to write.")]
Sheet = Annotated[Path | None, typer.Option(help="Also write a PNG of frames, to look at without a player.")]
Weights = Annotated[
    list[Path] | None,
    typer.Option(help="Folder or file of a checkpoint, in any layout; may be repeated. See `lichtspiel pull`."),
]
Profile = Annotated[str, typer.Option("--marks", help="Which rules the marks follow: eu, cn, us or all.")]
Label = Annotated[
    bool | None, typer.Option("--label/--no-label", help="Show or leave out the visible label, whatever the profile.")
]
Language = Annotated[str | None, typer.Option("--label-language", help="en, de, zh, fr or es.")]
Corner = Annotated[str | None, typer.Option("--label-corner", help="top-right, top-left, bottom-right or bottom-left.")]
Seconds = Annotated[
    float | None, typer.Option("--label-seconds", help="How long it is shown, from 2 s; throughout if not given.")
]
NoMarks = Annotated[str | None, typer.Option(metavar="REASON", help="Leave all marks out; the reason is recorded.")]
Consent = Annotated[
    str | None, typer.Option(help="Who is shown and that they agreed, where the policy asks; it is recorded.")
]
GuardUrl = Annotated[
    str | None, typer.Option("--guard", metavar="URL", help="OpenAI-compatible endpoint that judges prompts, too.")
]
GuardModel = Annotated[
    str | None, typer.Option(help="The model that the guard's endpoint is asked for; its name is `guard` if not given.")
]
GuardKey = Annotated[Path | None, typer.Option(help="File that holds the key of the guard's endpoint.")]
Embed = Annotated[bool, typer.Option("--embed-prompt", help="Publish the prompt's text in the seal, not its digest.")]
NoRecord = Annotated[
    bool, typer.Option("--no-record-prompt", help="Keep the prompt's text out of this machine's record, too.")
]
Timestamp = Annotated[str | None, typer.Option(metavar="URL", help="RFC 3161 authority that stamps the time.")]


def terms(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    marks: Profile = "eu",
    label: Label = None,
    label_language: Language = None,
    label_corner: Corner = None,
    label_seconds: Seconds = None,
    no_marks: NoMarks = None,
    consent: Consent = None,
    guard: GuardUrl = None,
    guard_model: GuardModel = None,
    guard_key: GuardKey = None,
    embed_prompt: Embed = False,
    no_record_prompt: NoRecord = False,
    timestamp: Timestamp = None,
) -> Any:
    """The `Terms` that flags ask for. Raises InvalidInput for flags that others leave without effect."""
    from lichtspiel.policy import HttpGuard
    from lichtspiel.seal import Marks
    from lichtspiel.workflows.terms import Terms

    if guard is None:
        without_effect({"--guard-model": guard_model, "--guard-key": guard_key}, "they need --guard")
    if no_marks is not None:
        left_out: dict[str, object] = {"--label": label, "--label-language": label_language}
        left_out |= {"--label-corner": label_corner, "--label-seconds": label_seconds}
        left_out |= {"--marks": None if marks == "eu" else marks, "--timestamp": timestamp}
        left_out |= {"--embed-prompt": embed_prompt or None}
        without_effect(left_out, "--no-marks leaves all of that out")
        chosen = Marks.none(no_marks)
        print("note: this video leaves without marks; the reason is kept in the record", file=sys.stderr)
    else:
        chosen = Marks.of(marks, label=label, language=label_language, corner=label_corner, seconds=label_seconds)
    return Terms(
        marks=chosen,
        consent=consent,
        guard=HttpGuard(url=guard, model=guard_model or "guard", key=secret(guard_key)) if guard else None,
        embed_prompt=embed_prompt,
        record_prompt=not no_record_prompt,
        timestamp=timestamp,
    )


def parameters(verb: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The parameters of a verb, their annotations evaluated; `Terms` is not imported for that, which takes time."""
    hints = get_type_hints(verb, localns={"Terms": object}, include_extras=True)
    found = inspect.signature(verb).parameters
    return {name: parameter.replace(annotation=hints[name]) for name, parameter in found.items()}


def under_terms(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb with a parameter `terms` the flags that these are made of, so that no verb repeats them."""
    flags, own = parameters(terms), parameters(verb)
    del own["terms"]
    last = own.popitem()[1]  # --json closes every list of options

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        chosen = terms(**{name: given.pop(name) for name in flags})
        verb(**given, terms=chosen)

    shown = [*own.values(), *flags.values(), last]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def without_effect(flags: dict[str, object], reason: str) -> None:
    """Refuse flags that were given (are not None) although, for this reason, nothing would come of them."""
    from lichtspiel.errors import InvalidInput

    given = [name for name, value in flags.items() if value is not None]
    if given:
        raise InvalidInput(f"{', '.join(given)}: would have no effect: {reason}; leave one or the other out")


def secret(path: Path | None) -> str:
    """The text of a file that holds a key, without the line end."""
    from lichtspiel.errors import InvalidInput

    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: the key cannot be read: {error}") from None


def say(note: str) -> None:
    """Tell a person something before the long part of the work begins."""
    print(f"note: {note}", file=sys.stderr)


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


def print_result(result: dict[str, Any], sheet: Path | None, as_json: bool) -> None:
    """Say what was made, where it is and how."""
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
    print(f"{'picture' if picture else 'video':<9}{result['path']}")
    if sheet is not None:
        print(f"sheet    {sheet}")
    print(f"size     {size}" + ("" if picture else f", {result['frames']} frames at {result['fps']} a second"))
    print(f"made by  {result['model']}, seed {result['seed']}, {settings}, {result['dtype']} on {result['device']}")
    print(f"took     {timings['total']:.1f} s ({stages})")
    print(sealed_by(result["seal"]["signer"], result["path"]))
    print(f"latents  {result['latents']}")
    if result["unknown_words"]:
        print(f"note     {result['model']} does not know: {', '.join(result['unknown_words'])}")
    if result["peak_bytes"]:
        print(f"memory   {result['peak_bytes'] / 1e9:.2f} GB at most")


def sealed_by(signer: str | None, path: str) -> str:
    """The line that says who signed."""
    if signer is None:
        return "sealed   no: the marks were left out"
    return f"sealed   {signer}; check with: lichtspiel verify {path}"
