"""The verbs that look at the data of a fine-tuning run and check it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import Json, Weights, out_option, progress_bar, say
from lichtspiel.cli.tune_flags import (
    TRAINING,
    Accumulate,
    CacheFolder,
    Consent,
    Folder,
    Keep,
    ModelName,
    Steps,
    TypedAdapter,
    TypedRun,
    about_adapter,
    about_data,
    about_run,
    run_options,
)

if TYPE_CHECKING:
    from lichtspiel.tune.check import Report
    from lichtspiel.tune.dataset import DataOptions, Finding
    from lichtspiel.tune.prepare import Observe

__all__ = ["check_run", "look_at_data"]

Full = Annotated[
    bool, typer.Option("--full", help="Check full training instead of an adapter.", rich_help_panel=TRAINING)
]


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
@about_adapter
@about_run
def check_run(  # noqa: PLR0913  (one parameter is one flag)
    *,
    data: Folder,
    model: ModelName = "nano",
    weights: Weights = None,
    options: DataOptions,
    consent: Consent = None,
    cache: CacheFolder = None,
    adapter: TypedAdapter,
    keep: Keep = None,
    run: TypedRun,
    accumulate: Accumulate = 1,
    full: Full = False,
    steps: Steps = 2000,
    as_json: Json = False,
) -> None:
    """Check a tuning run before it starts.

    Reads all data, predicts the memory of every bucket and measures a step of the largest, says how long the run will
    take, and tries to learn one batch. What is wrong is named with its file and what helps; then nothing starts.
    """
    from lichtspiel.errors import InvalidInput
    from lichtspiel.spec import model as find
    from lichtspiel.tune.check import check
    from lichtspiel.tune.encode import Encoder
    from lichtspiel.tune.prepare import default_cache, look_through
    from lichtspiel.tune.texts import read_prompts
    from lichtspiel.weights.checkpoint import checkpoint

    if steps < 1:
        raise InvalidInput(f"--steps {steps} is not valid; use a whole number from 1")
    row, options = find(model), replace(options, consent=consent)
    prompts = () if keep is None else read_prompts(keep)
    plan, automatic = run_options(run, adapter.fields(full=full), accumulate=accumulate, keep=prompts)
    files = checkpoint(row, weights)
    with _observer() as observe:
        surveyed = look_through(data, row, files.tokenizer(), options, observe)
        encoder = Encoder.of(row, files, cache or default_cache(data, row), run.device)
        report = check(surveyed, encoder, options, plan, steps=steps, observe=observe, automatic=automatic)
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
    if report.form is not None:
        print(report.form)
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
