"""The verbs that look at the data of a fine-tuning run and check it, and the flags that all of `tune` shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import Json, Weights, out_option, progress_bar, say, without_effect
from lichtspiel.cli.flags import expand, parameters
from lichtspiel.options import COMPUTING

if TYPE_CHECKING:
    from lichtspiel.tune.check import Report
    from lichtspiel.tune.dataset import DataOptions, Finding
    from lichtspiel.tune.prepare import Observe
    from lichtspiel.tune.settings import RunOptions

__all__ = ["TypedRun", "about_data", "about_run", "check_run", "look_at_data"]

Verb = Callable[..., None]

DATA, ADAPTER, TRAINING = "Data", "Adapter", "Training"
"""Headings of the options."""


def _option(*names: str, group: str, metavar: str | None = None, help: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=group, **more)


Folder = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder of clips and pictures with captions, or a file that lists them.")
]
ModelName = Annotated[
    str, _option("--model", group=COMPUTING, metavar="MODEL", help="Which model to tune; see `lichtspiel models`.")
]
Size = Annotated[
    str | None,
    _option(
        "--size", group=DATA, metavar="WIDTHxHEIGHT",
        help="Area of a frame; each clip keeps about its own shape. [default: the model's smallest]",
    ),
]  # fmt: skip
Frames = Annotated[
    list[int] | None,
    _option(
        "--frames", group=DATA, metavar="NUMBER",
        help="Length of a sample, 4n+1; the longest that a clip fills is taken. [default: 17 and 33; may be repeated]",
    ),
]  # fmt: skip
Extract = Annotated[
    str, _option("--extraction", group=DATA, metavar="start|whole|windows|evenly", help="Which frames of a clip.")
]
Stride = Annotated[
    int | None,
    _option("--stride", group=DATA, metavar="NUMBER", min=1, help="Frames from one window to the next."),
]
Windows = Annotated[
    int | None,
    _option("--windows", group=DATA, metavar="NUMBER", min=1, help="How many samples --extraction evenly takes."),
]
Repeats = Annotated[
    int, _option("--repeats", group=DATA, metavar="NUMBER", min=1, help="How often an epoch has each clip.")
]
Trigger = Annotated[
    list[str] | None,
    _option("--trigger", group=DATA, metavar="WORD", help="Put before captions that lack it. [may be repeated]"),
]
HoldOut = Annotated[
    int | None,
    _option(
        "--hold-out", group=DATA, metavar="NUMBER", min=0,
        help="Clips for validation only. [default: a tenth, none of fewer than 8]",
    ),
]  # fmt: skip
Consent = Annotated[
    str | None,
    _option(
        "--consent", group=DATA, metavar="TEXT",
        help="Who is shown and that they agreed, where the policy asks for it; asked once and recorded.",
    ),
]  # fmt: skip
CacheFolder = Annotated[
    Path | None,
    _option(
        "--cache", group=DATA, metavar="FOLDER",
        help="Where encoded data are kept. [default: in the data folder of this installation]",
    ),
]  # fmt: skip
Device = Annotated[str, _option("--device", group=COMPUTING, metavar="DEVICE", help="auto, cpu, cuda or cuda:0.")]
Full = Annotated[bool, _option("--full", group=TRAINING, help="Check full training instead of an adapter.")]
Rank = Annotated[
    int | None, _option("--rank", group=ADAPTER, metavar="NUMBER", help="Rank of the adapter. [default: 32]")
]
Alpha = Annotated[
    float | None, _option("--alpha", group=ADAPTER, metavar="NUMBER", help="Strength. [default: the rank]")
]
Dropout = Annotated[
    float | None,
    _option("--dropout", group=ADAPTER, metavar="SHARE", help="Inputs left out in training. [default: none]"),
]
Layers = Annotated[
    list[str] | None,
    _option(
        "--layers", group=ADAPTER, metavar="PATTERN",
        help="Which linear layers, such as '*self_attn*'. [default: all of the blocks; may be repeated]",
    ),
]  # fmt: skip
Dora = Annotated[bool, _option("--dora", group=ADAPTER, help="Learn the lengths of weights apart (DoRA).")]
Base = Annotated[
    str | None,
    _option(
        "--base", group=TRAINING, metavar="resident|int8|streamed", 
        help="How the frozen model is held. [default: resident]",
    ),
]  # fmt: skip
Precision = Annotated[
    str | None,
    _option("--dtype", group=TRAINING, metavar="float32|bfloat16", help="Precision. [default: the device's fastest]"),
]
Optimizer = Annotated[
    str,
    _option("--optimizer", group=TRAINING, metavar="NAME", help="adamw, muon, prodigy or schedule-free."),
]
Rate = Annotated[
    float | None,
    _option("--learning-rate", group=TRAINING, metavar="NUMBER", help="At its highest. [default: by method]"),
]
BatchSize = Annotated[int, _option("--batch", group=TRAINING, metavar="NUMBER", help="Samples a step.")]
Checkpointing = Annotated[
    bool,
    _option(
        "--checkpointing/--no-checkpointing", group=TRAINING, help="Compute blocks twice, to need less memory."
    ),
]  # fmt: skip
Steps = Annotated[int, _option("--steps", group=TRAINING, metavar="NUMBER", min=1, help="Length of the run.")]


def data_flags(
    size: Size = None,
    frames: Frames = None,
    extraction: Extract = "start",
    stride: Stride = None,
    windows: Windows = None,
    repeats: Repeats = 1,
    trigger: Trigger = None,
    hold_out: HoldOut = None,
) -> DataOptions:
    """What was typed about the data. Raises InvalidInput for a value that is none, or that would have no effect."""
    from typing import get_args

    from lichtspiel.errors import InvalidInput
    from lichtspiel.tune.dataset import DataOptions, Extraction

    choices: tuple[Extraction, ...] = get_args(Extraction)
    chosen = next((one for one in choices if one == extraction), None)
    if chosen is None:
        raise InvalidInput(f"--extraction {extraction} is not valid; use {', '.join(choices)}")
    if stride is not None and chosen != "windows":
        raise InvalidInput(f"--stride {stride} is the distance of windows; add --extraction windows")
    if windows is not None and chosen != "evenly":
        raise InvalidInput(f"--windows {windows} is how many samples are spread evenly; add --extraction evenly")
    return DataOptions(
        size=None if size is None else _size(size), frames=tuple(frames) if frames else None, extraction=chosen,
        stride=stride, count=windows or 1, repeats=repeats, triggers=tuple(trigger or ()), held_out=hold_out,
    )  # fmt: skip


def _size(text: str) -> tuple[int, int]:
    from lichtspiel.errors import InvalidInput

    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise InvalidInput(f"--size {text} is not valid; write WIDTHxHEIGHT in pixels, such as 832x480")
    return int(width), int(height)


@dataclass(frozen=True)
class TypedRun:
    """What was typed about a run: its device, the fields of its options, and the flags of the adapter."""

    device: str
    fields: dict[str, Any]
    adapter: dict[str, Any]

    def options(self, method: str) -> RunOptions:
        """The options of a run with "lora" or "full".

        Raises InvalidInput for values that do not go together, and for flags of an adapter where there is none.
        """
        from lichtspiel.tune.settings import BLOCKS, AdapterPlan, RunOptions

        typed = self.adapter
        if method == "full":
            without_effect(typed, "full training has no adapter")
            return RunOptions(method="full", **self.fields)
        rank = 32 if typed["--rank"] is None else typed["--rank"]
        adapter = AdapterPlan(
            rank=rank, alpha=float(rank) if typed["--alpha"] is None else typed["--alpha"],
            dropout=typed["--dropout"] or 0.0, dora=bool(typed["--dora"]),
            layers=tuple(typed["--layers"]) if typed["--layers"] else BLOCKS,
        )  # fmt: skip
        return RunOptions(method="lora", adapter=adapter, **self.fields)


def run_flags(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    rank: Rank = None,
    alpha: Alpha = None,
    dropout: Dropout = None,
    layers: Layers = None,
    dora: Dora = False,
    base: Base = None,
    dtype: Precision = None,
    optimizer: Optimizer = "adamw",
    learning_rate: Rate = None,
    batch: BatchSize = 1,
    checkpointing: Checkpointing = True,
    device: Device = "auto",
) -> TypedRun:
    """What was typed about the run. Raises InvalidInput for a value that is none."""
    from lichtspiel.errors import InvalidInput
    from lichtspiel.host import computing_dtype
    from lichtspiel.inference.device import choose_device
    from lichtspiel.tune.settings import BASES, OPTIMIZERS

    where = choose_device(device)
    fields: dict[str, Any] = {
        "base": base, "dtype": dtype, "optimizer": optimizer, "learning_rate": learning_rate,
    }  # fmt: skip
    for flag, known in (("base", BASES), ("optimizer", OPTIMIZERS), ("dtype", ("float32", "bfloat16"))):
        if fields[flag] is not None and fields[flag] not in known:
            raise InvalidInput(f"--{flag} {fields[flag]} is not valid; use {', '.join(known)}")
    fields = {name: value for name, value in fields.items() if value is not None}
    fields.setdefault("dtype", str(computing_dtype(where.type)).removeprefix("torch."))
    adapter = {
        "--rank": rank, "--alpha": alpha, "--dropout": dropout, "--layers": layers or None, "--dora": dora or None,
    }  # fmt: skip
    return TypedRun(str(where), fields | {"batch": batch, "checkpointing": checkpointing}, adapter)


def about_data(verb: Verb) -> Verb:
    """Give a verb with a parameter `options` the flags of `data_flags`."""
    return expand(verb, "options", parameters(data_flags), data_flags)


def about_run(verb: Verb) -> Verb:
    """Give a verb with a parameter `run` the flags of `run_flags`."""
    return expand(verb, "run", parameters(run_flags), run_flags)


@about_data
def look_at_data(
    *,
    data: Folder,
    out: Annotated[Path, out_option("Folder for the sheets.")] = Path("look"),
    model: ModelName = "nano",
    weights: Weights = None,
    options: DataOptions,
    as_json: Json = False,
) -> None:
    """Draw what a model will see of the data.

    Writes a sheet for each bucket, with frames as they are cut, scaled and cropped and captions beside them, and a page
    with all of them. Loads no network.
    """
    from lichtspiel.spec import model as find
    from lichtspiel.tune.look import look
    from lichtspiel.tune.prepare import look_through, reader

    row = find(model)
    with _observer() as observe:
        surveyed = look_through(data, row, reader(row, weights), options, observe)
        paths = look(surveyed.samples, row, out, observe) if surveyed.samples else []
    if as_json:
        findings = [_finding(one) for one in surveyed.found.findings]
        print(json.dumps({"paths": [str(path) for path in paths], "findings": findings}, ensure_ascii=False))
    else:
        _print_findings(surveyed.found.findings)
        for path in paths:
            print(path)
    if surveyed.refusals:
        raise typer.Exit(2)


@about_data
@about_run
def check_run(  # noqa: PLR0913  (one parameter is one flag)
    *,
    data: Folder,
    model: ModelName = "nano",
    weights: Weights = None,
    options: DataOptions,
    consent: Consent = None,
    cache: CacheFolder = None,
    run: TypedRun,
    full: Full = False,
    steps: Steps = 2000,
    as_json: Json = False,
) -> None:
    """Check a tuning run before it starts.

    Reads all data, predicts the memory of every bucket and measures a step of the largest, says how long the run will
    take, and tries to learn one batch. What is wrong is named with its file and what helps; then nothing starts.
    """
    from lichtspiel.spec import model as find
    from lichtspiel.tune.check import check
    from lichtspiel.tune.encode import Encoder
    from lichtspiel.tune.prepare import default_cache, look_through
    from lichtspiel.weights.checkpoint import checkpoint

    row, options, plan = find(model), replace(options, consent=consent), run.options("full" if full else "lora")
    files = checkpoint(row, weights)
    with _observer() as observe:
        surveyed = look_through(data, row, files.tokenizer(), options, observe)
        encoder = Encoder.of(row, files, cache or default_cache(data, row), run.device)
        report = check(surveyed, encoder, options, plan, steps=steps, observe=observe)
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        _print_findings([finding for finding in report.findings if not finding.refused])
        _print_report(report)
    if report.refusals:
        raise typer.Exit(2)


@contextmanager
def _observer() -> Iterator[Observe]:
    """A progress bar, as an `Observe` of the rooms that work."""
    from lichtspiel.tune.prepare import Observe

    with progress_bar() as progress:
        yield Observe(progress=progress, note=say)


def _finding(finding: Finding) -> dict[str, Any]:
    return {"path": str(finding.path), "message": finding.message, "refused": finding.refused}


def _print_findings(findings: list[Finding]) -> None:
    from lichtspiel.errors import printable

    for finding in findings:
        print(printable(f"{'refused' if finding.refused else 'note'}  {finding}"))


def _print_report(report: Report) -> None:
    """The tables of a check, and its verdict."""
    from lichtspiel.errors import printable

    free = "not known" if report.free_bytes is None else _gigabytes(report.free_bytes)
    print(f"{report.model} on {report.device}, memory free: {free}")
    if report.stages:
        stages: list[tuple[str, ...]] = [("stage", "predicted", "measured", "seconds each")]
        stages += [
            (stage.name, _gigabytes(stage.predicted), _gigabytes(stage.measured), _seconds(stage.seconds))
            for stage in report.stages
        ]
        _print_table(stages)
    if report.buckets:
        rows: list[tuple[str, ...]] = [
            ("bucket", "samples", "batches an epoch", "tokens", "predicted", "measured", "seconds a step")
        ]
        rows += [
            (
                str(line.bucket), str(line.samples), str(line.per_epoch), f"{line.tokens:,}",
                _gigabytes(line.predicted), _gigabytes(line.measured),
                ("about " if line.scaled and line.seconds else "") + _seconds(line.seconds),
            )
            for line in report.buckets
        ]  # fmt: skip
        _print_table(rows)
    if report.probe is not None:
        losses = report.probe.losses
        steps, fall = len(losses) - 1, 100 * report.probe.fall
        print(f"one batch, {steps} steps: the loss goes from {losses[0]:.4f} to {losses[-1]:.4f}, {-fall:+.2f} %")
    if report.hours is not None:
        print(f"{report.steps:,} steps take about {report.hours:.2g} hours, encoding included")
    for refusal in report.refusals:
        print(printable(f"refused  {refusal}"))
    print("no: see above" if report.refusals else "go: nothing speaks against it")


def _gigabytes(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
