"""The verbs that tune: a LoRA or all weights, on one's own clips, in one process or in several."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import OUTPUT, Json, Weights, out_option, progress_bar, say
from lichtspiel.cli.flags import Verb, expand, parameters
from lichtspiel.cli.tune_flags import (
    ADAPTER,
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
    checked,
    run_options,
)
from lichtspiel.options import COMPUTING

if TYPE_CHECKING:
    from lichtspiel.tune.dataset import DataOptions
    from lichtspiel.tune.run import Outcome

__all__ = ["tune_full", "tune_lora"]

SAMPLES = "Samples and validation"
"""Heading of the options."""

DIALECTS, LAYOUTS = ("comfy", "diffusers", "kohya"), ("official", "diffusers")


def _option(*names: str, group: str = TRAINING, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=group, **more)


def training_flags(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    steps: Steps = 2000,
    accumulate: Accumulate = 1,
    clip: Annotated[float, _option("--clip", metavar="NUMBER", help="Longest gradient; 0: any.")] = 1.0,
    weight_decay: Annotated[float, _option("--weight-decay", metavar="NUMBER", help="Weight decay.")] = 0.01,
    warmup: Annotated[int, _option("--warmup", metavar="STEPS", help="Steps in which the learning rate rises.")] = 20,
    ema: Annotated[float, _option("--ema", metavar="SHARE", help="Export an average that keeps this a step.")] = 0.0,
    times: Annotated[
        str, _option("--times", metavar="NAME", help="logit-normal or uniform times of noise.")
    ] = "logit-normal",
    shift: Annotated[
        float | None, _option("--shift", metavar="NUMBER", help="Shift of times to noise. [default: the model's]")
    ] = None,
    drop_text: Annotated[float, _option("--drop-text", metavar="SHARE", help="Captions that are left out.")] = 0.1,
    first: Annotated[
        float, _option("--first", metavar="SHARE", help="Samples with their first frame, if the model has a choice.")
    ] = 0.2,
    first_last: Annotated[
        float, _option("--first-last", metavar="SHARE", help="Samples with first and last frame, likewise.")
    ] = 0.1,
    seed: Annotated[int, _option("--seed", metavar="NUMBER", help="Seed of the run.")] = 0,
    validate_every: Annotated[
        int, _option("--validate-every", group=SAMPLES, metavar="STEPS", help="0: only at the end.")
    ] = 100,
    samples: Annotated[
        Path | None,
        _option("--samples", group=SAMPLES, metavar="FILE", help="Prompts, one a line, or jobs as for `batch`."),
    ] = None,
    sample_every: Annotated[
        int, _option("--sample-every", group=SAMPLES, metavar="STEPS", help="Steps from sample to sample.")
    ] = 0,
    ray: Annotated[
        str | None,
        _option("--ray", group=COMPUTING, metavar="ADDRESS", help="Share the work out on Ray: auto, ray://… or local."),
    ] = None,
    workers: Annotated[
        int | None, _option("--workers", group=COMPUTING, metavar="NUMBER", help="How many workers of Ray share it.")
    ] = None,
    save_minutes: Annotated[
        float, _option("--save-minutes", group=OUTPUT, metavar="MINUTES", help="Time between checkpoints.")
    ] = 10.0,
) -> dict[str, Any]:
    """What was typed about the course of a run, by name. Raises InvalidInput for a choice that there is not."""
    typed = dict(locals())
    from lichtspiel.errors import InvalidInput
    from lichtspiel.tune.settings import TIMES

    checked("--times", times, TIMES)
    if (ray is None) != (workers is None):
        raise InvalidInput("--ray says where workers are, and --workers how many; give both or neither")
    return typed


def about_training(verb: Verb) -> Verb:
    """Give a verb with a parameter `training` the flags of `training_flags`."""
    return expand(verb, "training", parameters(training_flags), training_flags)


Out = Annotated[Path, out_option("Folder of the run; a run goes on where it stopped.")]


@about_data
@about_adapter
@about_run
@about_training
def tune_lora(  # noqa: PLR0913  (one parameter is one flag)
    *,
    data: Folder,
    out: Out,
    model: ModelName = "nano",
    weights: Weights = None,
    adapter: TypedAdapter,
    keep: Keep = None,
    keep_weight: Annotated[
        float | None, _option("--keep-weight", group=ADAPTER, metavar="NUMBER", help="Their weight. [default: 1]")
    ] = None,
    start: Annotated[
        Path | None,
        _option("--from", group=ADAPTER, metavar="FILE", help="Begin with this LoRA, of the same rank and layers."),
    ] = None,
    to: Annotated[
        str, _option("--to", group=OUTPUT, metavar="comfy|diffusers|kohya", help="Dialect of the LoRA file.")
    ] = "comfy",
    run: TypedRun,
    training: dict[str, Any],
    options: DataOptions,
    consent: Consent = None,
    cache: CacheFolder = None,
    as_json: Json = False,
) -> None:
    """Train a LoRA on your own clips.

    The model stays as it is; what is learned is a small file for --lora. A run that was stopped goes on by itself.
    """
    checked("--to", to, DIALECTS)
    typed = _Typed(
        data=data, out=out, model=model, weights=weights, run=run, training=training, cache=cache,
        options=replace(options, consent=consent),
    )  # fmt: skip
    _tune(typed, as_json, adapter.fields() | _kept(keep, keep_weight), dialect=to, start=start)


@about_data
@about_run
@about_training
def tune_full(  # noqa: PLR0913  (one parameter is one flag)
    *,
    data: Folder,
    out: Out,
    model: ModelName = "nano",
    weights: Weights = None,
    to: Annotated[
        str,
        _option(
            "--to", group=OUTPUT, metavar="official|diffusers", help="Layout of the weights; ComfyUI's is official."
        ),
    ] = "official",
    run: TypedRun,
    training: dict[str, Any],
    options: DataOptions,
    consent: Consent = None,
    cache: CacheFolder = None,
    as_json: Json = False,
) -> None:
    """Train all weights of a model on your own clips.

    Writes weights for --weights. Under `torchrun`, processes share the work. A run that was stopped goes on by itself.
    """
    checked("--to", to, LAYOUTS)
    typed = _Typed(
        data=data, out=out, model=model, weights=weights, run=run, training=training, cache=cache,
        options=replace(options, consent=consent),
    )  # fmt: skip
    _tune(typed, as_json, {"method": "full"}, layout=to)


def _kept(path: Path | None, weight: float | None) -> dict[str, Any]:
    from lichtspiel.errors import InvalidInput
    from lichtspiel.tune.texts import read_prompts

    if path is None:
        if weight is not None:
            raise InvalidInput("--keep-weight would have no effect without --keep")
        return {}
    return {"keep": read_prompts(path)} | ({} if weight is None else {"keep_weight": weight})


SCHEDULE = ("steps", "validate_every", "sample_every", "save_minutes")
"""Flags that are fields of `Schedule` under the same name."""


@dataclass(frozen=True, kw_only=True)
class _Typed:
    """What was typed after both verbs."""

    data: Path
    out: Path
    model: str
    weights: list[Path] | None
    run: TypedRun
    training: dict[str, Any]
    options: DataOptions
    cache: Path | None


def _tune(
    typed: _Typed, as_json: bool, adapter: dict[str, Any], *, dialect: str = "comfy", layout: str = "official",
    start: Path | None = None,
) -> None:  # fmt: skip
    from lichtspiel.spec import model as find
    from lichtspiel.tune.prepare import Observe
    from lichtspiel.tune.run import Schedule
    from lichtspiel.tune.workflow import Job, tune

    row, fields = find(typed.model), dict(typed.training)
    samples, ray, workers = (fields.pop(name) for name in ("samples", "ray", "workers"))
    schedule = Schedule(**{name: fields.pop(name) for name in SCHEDULE}, dialect=dialect, layout=layout)
    fields["shift"] = fields["shift"] or row.sampling.shift
    options, automatic = run_options(typed.run, adapter, **fields)
    job = Job(
        data=typed.data, out=typed.out, row=row, options=options, schedule=schedule, data_options=typed.options,
        weights=typed.weights, cache=typed.cache, samples=samples, device=typed.run.device, automatic=automatic,
        start=start,
    )  # fmt: skip
    with progress_bar() as progress:
        observe = Observe(progress=progress, note=say)
        if ray is None:
            outcome = tune(job, observe)
        else:
            from lichtspiel.tune.cluster import tune_on_ray

            outcome = tune_on_ray(job, ray, workers, observe)
    _print(outcome, as_json)


def _print(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.to_json(), ensure_ascii=False))
        return
    for path in outcome.files:
        print(path)
    line = f"{outcome.steps} steps in {outcome.seconds / 60:.1f} minutes"
    if outcome.validation is not None and outcome.base is not None:
        line += f"; loss on what was kept aside {outcome.validation:.4f}, the base model's {outcome.base:.4f}"
    print(line)
